"""Reading folders of runs: whole, cut off, damaged and foreign ones."""

import subprocess
import sys

import pytest

from expanders.errors import SettingError
from expanders.report.json_files import number
from expanders.report.run_records import Streams, read_records
from tests.conftest import ROOT
from tests.report.run_folders import change, write_run


def only(root):
    (run,), skipped = read_records(root)
    assert skipped == []
    return run


def test_a_finished_run(tmp_path):
    folder = write_run(tmp_path, "rreg", 3, seed=4, accuracy=0.875)
    run = only(tmp_path)
    assert run.folder == folder
    assert run.state == "finished"
    assert run.accuracy == 0.875
    assert run.streams == Streams(4, 4, 4)
    assert run.choices["graph"] == "rreg"
    assert [row["epoch"] for row in run.history()] == [1, 2, 3]
    assert run.wiring.layers == (("features.3", 192), ("features.7", 192))


def test_pinned_streams_and_dense_networks(tmp_path):
    write_run(tmp_path, seed=1, seeds={"graph": 7})
    assert only(tmp_path).streams == Streams(7, 1, 1)
    write_run(tmp_path / "dense", "dense", seed=1, seeds={"graph": 7})
    assert only(tmp_path / "dense").streams == Streams(None, 1, 1)


def test_a_wiring_that_depends_on_no_seed_has_no_graph_seed_and_one_not_known_has(tmp_path):
    folder = write_run(tmp_path, "circulant", seed=1, streams=())
    assert only(tmp_path).streams == Streams(None, 1, 1)
    (folder / "graph.json").unlink()
    assert only(tmp_path).streams == Streams(1, 1, 1)


def test_failed_and_unfinished_runs(tmp_path):
    write_run(tmp_path, seed=0, accuracy=None, failure="the loss\nbecame nan")
    write_run(tmp_path, seed=1, accuracy=None)
    runs, skipped = read_records(tmp_path)
    assert skipped == []
    assert [(run.state, run.error) for run in runs] == [
        ("failed", "the loss became nan"),
        ("unfinished", ""),
    ]


def test_a_run_that_failed_first_and_then_finished_counts_as_finished(tmp_path):
    folder = write_run(tmp_path)
    (folder / "failure.json").write_text('{"error": "out of memory"}')
    assert only(tmp_path).state == "finished"


def test_null_and_odd_values_are_no_numbers(tmp_path):
    write_run(tmp_path, measures={"graph/normalised_gap_mean": None})
    assert "graph/normalised_gap_mean" not in only(tmp_path).summary
    assert [number(v) for v in (True, "1", None, float("nan"), float("inf"), 2, 0.5)] == [
        None, None, None, None, None, 2, 0.5,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"test/accuracy": 0.9', "summary.json is damaged"),
        ('{"test/accuracy": null}', "no test/accuracy between 0 and 1"),
        ('{"test/accuracy": 93.1}', "no test/accuracy between 0 and 1"),
        ("[]", "summary.json holds no mapping"),
        ("\udcff", "summary.json is damaged"),
    ],
)
def test_a_summary_that_cannot_be_used_is_a_failure_with_its_reason(tmp_path, text, reason):
    folder = write_run(tmp_path)
    (folder / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    run = only(tmp_path)
    assert run.state == "failed"
    assert reason in run.error
    assert run.summary == {}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('{"choices"', "config.json is damaged"),
        (
            '{"model_type": "bert"}',
            "not that of a run: no choices of model, graph, dataset by name",
        ),
        ('{"choices": {"model": "m", "graph": "g", "dataset": "d"}}', "it has no definition"),
        ('{"choices": {"model": "m", "graph": "g", "dataset": "d"}, "definition": {}}', "for seed"),
        (
            '{"choices": {"model": "m", "graph": "g", "dataset": "d"},'
            ' "definition": {}, "degree": 3}',
            "a group is not a mapping",
        ),
    ],
)
def test_foreign_and_damaged_folders_are_named_and_left_out(tmp_path, config, reason):
    write_run(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(config)
    runs, (skipped,) = read_records(tmp_path)
    assert len(runs) == 1
    assert skipped.path == other
    assert reason in skipped.reason


def test_a_run_that_failed_before_it_had_settings_is_named(tmp_path):
    write_run(tmp_path)
    early = tmp_path / "early"
    (early / ".hydra").mkdir(parents=True)
    _, (skipped,) = read_records(tmp_path)
    assert skipped == (early, "has no config.json")


def test_other_files_and_empty_folders_are_passed_by(tmp_path):
    write_run(tmp_path / "sweep" / "one")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".submitit" / "1").mkdir(parents=True)
    (tmp_path / ".submitit" / "config.json").write_text("{}")
    assert only(tmp_path).state == "finished"


def test_links_are_followed_once(tmp_path):
    folder = write_run(tmp_path / "runs")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "link").symlink_to(folder)
    assert only(tmp_path / "runs").folder == folder
    assert only(tmp_path / "chosen").accuracy == 0.9


def test_damaged_lines_of_metrics_and_layers_are_left_out(tmp_path):
    folder = write_run(tmp_path, epochs=3)
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole + '\n"text"\n{"epoch": 4, "val/acc')
    (folder / "graph.json").write_text('{"layers": [{"name": "a"}]}')
    change(folder / "summary.json", metrics=None)  # of a version that wrote no digest of them
    run = only(tmp_path)
    assert [row["epoch"] for row in run.history()] == [1, 2, 3]
    assert run.wiring.layers == ()
    (folder / "metrics.jsonl").unlink()
    (folder / "graph.json").write_bytes(b"\xff")
    assert run.history() == []
    assert run.wiring.layers == ()


def test_metrics_that_are_not_those_of_the_finish_are_named_and_not_used(tmp_path):
    folder = write_run(tmp_path, epochs=3)
    rows = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(rows.replace("val/accuracy", "val/accuracz"))
    (run,), (skipped,) = read_records(tmp_path)
    assert skipped.path == folder / "metrics.jsonl"
    assert "was changed or removed after the run ended" in skipped.reason
    assert (run.state, run.accuracy) == ("finished", 0.9)
    assert (run.history(), run.images_per_second) == ([], None)


def test_a_folder_without_runs_is_one_clear_line(tmp_path):
    with pytest.raises(SettingError, match=r"RUNS_DIR=.*absent: there is no such folder"):
        read_records(tmp_path / "absent")
    with pytest.raises(SettingError, match=r"holds no run that can be read; give the folder"):
        read_records(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SettingError, match=r"holds no run .*config.json is damaged"):
        read_records(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    from expanders.report import run_records

    write_run(tmp_path)
    locked = tmp_path / "locked"
    locked.mkdir()
    scandir = run_records.os.scandir

    def refuse(folder):
        if folder == locked:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(run_records.os, "scandir", refuse)
    runs, skipped = read_records(tmp_path)
    assert len(runs) == 1
    assert skipped == [(locked, "Permission denied")]


def test_a_thousand_runs_are_read_and_arranged(tmp_path):
    from expanders.report.grid import arrange

    for seed in range(1000):
        write_run(tmp_path, seed=seed)
    runs, _ = read_records(tmp_path)
    (table,), copies = arrange(runs)
    assert len(table.cell(table.arms[0], table.columns[0]).finished) == 1000
    assert copies == []


def test_the_report_imports_no_pytorch():
    code = (
        "import sys, expanders.report.__main__, expanders.report.content;"
        "import expanders.report.csv_files;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
