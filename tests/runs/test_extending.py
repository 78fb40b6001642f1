"""The examples of docs/extending.md, as a user would add them: nothing of this package changes."""

import csv
import re

import pytest

from expanders.files import read_sealed
from expanders.report.__main__ import write
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `mypkg` and a folder of YAML files, from the page."""
    shown = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mypkg.py").write_text("".join(shown))
    for name in ("ring", "absolute"):
        path = tmp_path / "conf" / "graph" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = re.search(rf"```yaml\n# conf/graph/{name}\.yaml\n(.*?)```", PAGE, re.DOTALL)
        path.write_text(text[1])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    return "--config-dir", str(tmp_path / "conf")


def test_a_score_and_a_control_of_ones_own(launch, tmp_path, few_images, package):
    own = (*package, "model=resnet20", "batch_size=4", "wandb.mode=disabled", "epochs=1")
    data = ("dataset=image_folder", f"dataset.root={few_images}")
    for graph in (["graph=ring"], ["graph=absolute"], ["graph=absolute", "graph.score.power=2"]):
        result = launch(*own, *data, *graph)
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
