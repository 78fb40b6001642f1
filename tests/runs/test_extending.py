"""The examples of docs/extending.md, as a user would add them: nothing of this package changes."""

import csv
import json
import re

import numpy as np
import pytest

from expanders.files import read_sealed
from expanders.report.__main__ import write
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```yaml\n# conf/(\S+)\n(.*?)```", PAGE, re.DOTALL))
GROUPS = ("graph", "degree", "model", "dataset", "optimizer", "schedule", "recipe")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package `mypkg` and a folder of YAML files, from the page, and images for its data set."""
    modules = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mypkg.py").write_text("\n\n".join(modules))
    for name, text in FILES.items():
        path = tmp_path / "yours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rng = np.random.default_rng(0)
    for part, count in {"train": 40, "test": 20}.items():
        pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / f"{part}.npz", pixels=pixels, labels=np.arange(count) % 10)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    where = ("--config-dir", str(tmp_path / "yours"), f"dataset.root={tmp_path}")
    return *where, "model=mynet", "dataset=mydata", "wandb.mode=disabled"


def test_the_page_has_an_example_of_every_group():
    assert {name.partition("/")[0] for name in FILES} == set(GROUPS)
    assert {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} == {*GROUPS, "hydra"}


def test_all_of_it_trains_together(launch_forked, own, tmp_path):
    chosen = ("graph=ring", "degree=halving", "optimizer=rmsprop", "schedule=warmup")
    result = launch_forked(*own, *chosen, "epochs=2", "graph.hops=3", "degree.first=8")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    definition = read_sealed(folder / "config.json")["definition"]
    assert definition["batch_size"] == 32
    assert definition["graph"] == {"_target_": "mypkg.ring", "hops": 3}
    assert definition["degree"] == {"_target_": "mypkg.halving", "first": 8}
    layers = json.loads((folder / "graph.json").read_text())["layers"]
    wired = {layer["name"]: layer["edges"] for layer in layers if not layer["kept"]}
    assert list(wired.values()) == [8 * 32, 4 * 32, 3 * 32, 3 * 32]


def test_a_score_and_a_control_of_ones_own(launch_forked, own, tmp_path):
    for graph in (["graph=ring"], ["graph=absolute"], ["graph=absolute", "graph.score.power=2"]):
        result = launch_forked(*own, *graph, "epochs=1")
        assert result.returncode == 0, result.stderr
    definitions = [
        read_sealed(path)["definition"]["graph"]
        for path in sorted((tmp_path / "runs").glob("*/config.json"))
    ]
    assert {"_target_": "mypkg.ring"} in definitions
    score = {"_target_": "mypkg.absolute"}
    assert {"_target_": "Scored", "score": score} in definitions
    assert {"_target_": "Scored", "score": score | {"power": 2}} in definitions
    write(tmp_path / "runs", tmp_path / "report")
    rows = list(csv.DictReader((tmp_path / "report" / "cells.csv").read_text().splitlines()))
    groups = {row["wiring"]: row["kind"] for row in rows if row["finished"] != "0"}
    assert groups["ring"] == "controls"
    assert [g for arm, g in groups.items() if arm.startswith("absolute")] == ["scored wirings"] * 2
