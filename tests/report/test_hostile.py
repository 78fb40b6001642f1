"""Folders that no run of ours leaves: each is named with its reason or used, and none ends the
report.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expanders.files import file_digest, read_sealed, write_sealed
from expanders.report.__main__ import write
from tests.report.run_folders import change, write_run

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")

HUGE = 10**400  # an integer that no float holds
DEEP = "[" * 100_000 + "]" * 100_000
SURROGATE = "\ud800"  # half a character, which no file can hold
Maker = Callable[[Path], None]
ODD: dict[str, tuple[Maker, str, bool]] = {}


def odd(said: str = "", drawn: bool = False) -> Callable[[Maker], Maker]:
    """Register a function that writes an odd folder, and words that the report says of it.

    `drawn` says that what is odd reaches the pictures, which take most of the time.
    """

    def register(make: Maker) -> Maker:
        ODD[make.__name__] = (make, said, drawn)
        return make

    return register


def configured(root: Path, **changes: Any) -> Path:
    """A finished run whose configuration has values of its own."""
    folder = write_run(root, seed=1)
    change(folder / "config.json", **changes)
    return folder


def choosing(root: Path, **choices: Any) -> Path:
    """A finished run with choices of its own."""
    names = {"model": "vgg16bn", "graph": "rreg", "dataset": "digits", "degree": "constant"}
    return configured(root, choices=names | choices)


def summarised(root: Path, **values: Any) -> None:
    """A finished run with a summary of its own, `_` standing for `/` in its keys."""
    named = {key.replace("_", "/", 1): value for key, value in values.items()}
    change(write_run(root, seed=1) / "summary.json", **named)


def replaced(root: Path, name: str, content: str | bytes) -> None:
    """A finished run with one file replaced."""
    path = write_run(root, seed=1) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def measured(root: Path, content: str) -> None:
    """A run that finished with these metrics."""
    replaced(root, "metrics.jsonl", content)
    (path,) = root.glob("*-s1*/metrics.jsonl")
    change(path.with_name("summary.json"), metrics=file_digest(path))


# Names of folders


@odd("\\xff")
def folder_not_utf8(root):
    write_run(root, seed=1).rename(os.fsdecode(os.fsencode(root) + b"/odd-\xff"))


@odd("\\xfe")
def foreign_folder_not_utf8(root):
    folder = Path(os.fsdecode(os.fsencode(root) + b"/odd-\xfe"))
    folder.mkdir()
    (folder / "config.json").write_text("{}")


@odd("a b&#34;&lt;i&gt;")
def folder_with_markup_and_a_line_break(root):
    write_run(root, seed=1, accuracy=None).rename(root / 'a\nb"<i>$x%41#?')


# config.json


@odd("character")
def surrogate_in_a_choice(root):
    choosing(root, model=f"a{SURROGATE}")


@odd("character")
def surrogate_in_a_setting(root):
    configured(root, note=SURROGATE)


@odd("character")
def surrogate_in_a_key(root):
    configured(root, **{SURROGATE: 1})


@odd("character")
def control_characters_in_a_choice(root):
    choosing(root, model="a\0b\x1b")


@odd("a$b$ on digits")
def dollars_in_a_model(root):
    choosing(root, model="a$b$")


@odd("$\\frac{", drawn=True)
def unbalanced_dollars_in_a_graph(root):
    choosing(root, graph="$\\frac{")


@odd("模型", drawn=True)
def a_model_that_the_font_lacks(root):
    choosing(root, model="模型")


@odd("text of 100000 characters")
def endless_name(root):
    choosing(root, model="m" * 100_000)


@odd("no choices of model")
def empty_name(root):
    choosing(root, model="")


@odd("beyond")
def degree_beyond_float(root):
    configured(root, degree={"value": HUGE, "budget": "equal"})


@odd("beyond")
def degree_infinite(root):
    configured(root, degree={"value": float("inf"), "budget": "equal"})


@odd("beyond")
def degree_not_a_number(root):
    configured(root, degree={"value": float("nan"), "budget": "equal"})


@odd("degree -1", drawn=True)
def degree_negative(root):
    configured(root, degree={"value": -1, "budget": "equal"})


@odd("beyond")
def graph_option_not_a_number(root):
    configured(root, graph={"p": float("nan")})


@odd("beyond")
def seed_beyond_float(root):
    configured(root, seed=HUGE)


@odd("damaged")
def integer_of_ten_thousand_digits(root):
    replaced(root, "config.json", '{"seed": ' + "1" * 10_000 + "}")


@odd("no settings of its graph")
def no_graph(root):
    path = write_run(root, seed=1) / "config.json"
    write_sealed(path, {k: v for k, v in read_sealed(path).items() if k != "graph"})


@odd("seed")
def seed_true(root):
    configured(root, seed=True)


@odd("deep")
def config_deep(root):
    replaced(root, "config.json", DEEP)


@odd("deep")
def config_nested_900_times(root):
    replaced(root, "config.json", '{"a":' * 900 + "0" + "}" * 900)


@odd("choices")
def choice_is_a_list(root):
    choosing(root, optimizer=["sgd"])


@odd("choices")
def degree_choice_is_a_mapping(root):
    choosing(root, degree={"value": 3})


@odd("config.json")
def config_is_a_folder(root):
    folder = write_run(root, seed=1)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@odd("config.json")
def config_is_a_fifo(root):
    folder = write_run(root, seed=1)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


@odd("config.json")
def config_links_to_itself(root):
    folder = write_run(root, seed=1)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")


@odd("loop")
def folder_links_to_itself(root):
    (root / "loop").symlink_to("loop")


# summary.json and failure.json


@odd("summary.json")
def summary_links_to_itself(root):
    folder = write_run(root, seed=1)
    (folder / "summary.json").unlink()
    (folder / "summary.json").symlink_to("summary.json")


@odd("beyond")
def parameters_beyond_float(root):
    summarised(root, params_live=HUGE)


@odd(drawn=True)
def parameters_zero_and_negative(root):
    summarised(root, params_live=-1, params_dense=0)


@odd(drawn=True)
def measure_of_1e308(root):
    summarised(root, graph_normalised_gap_mean=1e308)


@odd(drawn=True)
def dense_parameters_of_1e_308(root):
    summarised(root, params_dense=1e-308)


@odd("summary.json was changed after it was written")
def summary_with_another_accuracy(root):
    path = write_run(root, seed=1, accuracy=0.5) / "summary.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))


@odd("config.json was changed after it was written")
def config_with_another_seed(root):
    path = write_run(root, seed=1) / "config.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))


@odd("summary.json is that of another run")
def summary_of_another_run(root):
    folder = write_run(root, seed=1)
    other = write_run(root, seed=2)
    (folder / "summary.json").write_bytes((other / "summary.json").read_bytes())


@odd("deep")
def summary_deep(root):
    replaced(root, "summary.json", DEEP)


@odd("character")
def summary_key_with_a_surrogate(root):
    replaced(root, "summary.json", json.dumps({"test/accuracy": 0.5, SURROGATE: 1}))


@odd("=\\ud800\\x00")
def failure_with_a_surrogate(root):
    folder = write_run(root, seed=1, accuracy=None)
    (folder / "failure.json").write_text(json.dumps({"error": f"={SURROGATE}\0"}))


@odd("failure.json")
def failure_is_a_list(root):
    folder = write_run(root, seed=1, accuracy=None)
    (folder / "failure.json").write_text("[]")


# metrics.jsonl and graph.json, of which only what can be used is


@odd()
def metrics_deep(root):
    measured(root, DEEP + "\n")


@odd(drawn=True)
def metrics_beyond_float(root):
    rows = [{"epoch": HUGE, "val/accuracy": 1}, {"epoch": 1, "val/accuracy": HUGE}]
    measured(root, "".join(json.dumps(row) + "\n" for row in rows))


@odd(drawn=True)
def metrics_of_1e308(root):
    rows = [{"epoch": e, "val/accuracy": 1e308, "train/loss": -1e308} for e in (-1, 1e308)]
    measured(root, "".join(json.dumps(row) + "\n" for row in rows))


@odd("changed or removed after the run ended", drawn=True)
def metrics_changed(root):
    path = write_run(root, seed=1) / "metrics.jsonl"
    path.write_text(path.read_text().replace("accuracy", "accuracz"))


@odd("changed or removed after the run ended")
def metrics_are_a_fifo(root):
    folder = write_run(root, seed=1)
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")


@odd()
def layers_deep(root):
    replaced(root, "graph.json", DEEP)


@odd(drawn=True)
def layers_beyond_float(root):
    layer = {"name": SURROGATE, "edges": HUGE, "kept": ""}
    replaced(root, "graph.json", json.dumps({"layers": [layer]}))


@odd(drawn=True)
def layers_without_edges(root):
    layers = [{"name": str(n), "edges": n, "kept": ""} for n in (0, -5)]
    replaced(root, "graph.json", json.dumps({"layers": layers}))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_folder_does_not_end_the_report(tmp_path, monkeypatch, name):
    make, said, drawn = ODD[name]
    runs = tmp_path / "runs"
    write_run(runs, seed=0)
    make(runs)
    if not drawn:
        monkeypatch.setattr("expanders.report.figures.pictures", lambda *_: iter(()))
    page = write(runs, tmp_path / "report")
    html = page.read_text(encoding="utf-8")
    assert said in re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    assert "90.00" in html  # of the run beside it
    for file in page.parent.rglob("*.csv"):
        file.read_text(encoding="utf-8")
