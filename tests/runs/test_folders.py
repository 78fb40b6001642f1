import json
import logging

import pytest

from expanders.errors import SettingError
from expanders.files import read_sealed, write_sealed
from expanders.runs import folders
from expanders.runs.folders import State

SETTINGS = {"epochs": 3, "optimizer": {"lr": 0.1}, "definition": {"optimizer": {"lr": 0.1}}}
RUN = folders.run_digest(SETTINGS)


def test_a_run_goes_through_its_states(tmp_path):
    assert folders.state(tmp_path) == State.NEW
    folders.begin(tmp_path, SETTINGS)
    assert folders.state(tmp_path) == State.NEW
    (tmp_path / "last.pt").touch()
    assert folders.state(tmp_path) == State.CUT_OFF
    folders.mark_failed(tmp_path, ValueError("no\nluck"))
    assert folders.state(tmp_path) == State.FAILED
    assert folders.failure(tmp_path) == "no luck"
    folders.write_summary(tmp_path, {"test/accuracy": 0.5}, RUN)
    assert folders.state(tmp_path) == State.DONE
    assert folders.summary(tmp_path) == {"test/accuracy": 0.5}
    for name in ("run.log", "damaged-last.pt", "damaged-last-2.pt"):
        (tmp_path / name).touch()
    folders.clear(tmp_path)
    assert folders.state(tmp_path) == State.NEW
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_a_failure_keeps_its_traceback(tmp_path):
    try:
        int("x")
    except ValueError as error:
        folders.mark_failed(tmp_path, error)
    assert 'int("x")' in json.loads((tmp_path / "failure.json").read_text())["traceback"]


def test_a_failure_that_cannot_be_written_hides_nothing(tmp_path):
    folders.mark_failed(tmp_path / "removed", ValueError("the cause"))
    (tmp_path / "failure.json").write_text("[]")
    assert folders.failure(tmp_path) is None


def test_changed_settings_are_refused_with_the_list_of_changes(tmp_path):
    old = {"definition": {"epochs": 3, "optimizer": {"lr": 0.1, "momentum": 0.9}, "gone": 1}}
    new = {"definition": {"epochs": 3, "optimizer": {"lr": 0.2, "momentum": 0.9}, "more": 2}}
    folders.begin(tmp_path, old)
    folders.begin(tmp_path, new)  # nothing was trained yet
    folders.begin(tmp_path, old)
    (tmp_path / "last.pt").touch()
    folders.begin(tmp_path, old)
    changes = r"gone 1 -> default; more default -> 2; optimizer.lr 0.1 -> 0.2"
    with pytest.raises(SettingError, match=rf"\({changes}\); choose another folder, or restart"):
        folders.begin(tmp_path, new)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"test/accuracy": 0.5}', "[" * 9999])
def test_a_damaged_summary_does_not_count(tmp_path, content, caplog):
    folders.begin(tmp_path, SETTINGS)
    (tmp_path / "last.pt").touch()
    (tmp_path / "summary.json").write_text(content)
    assert folders.summary(tmp_path) is None
    assert folders.state(tmp_path) == State.CUT_OFF
    folders.begin(tmp_path, SETTINGS)
    assert "summary.json is damaged, or another run's: the best network is evaluated" in caplog.text


def test_a_flipped_key_and_a_flipped_value_are_noticed(tmp_path):
    """Every bit of every byte, once; none may change what is read without a word."""
    folders.begin(tmp_path, SETTINGS)
    content = {"test/accuracy": 0.5, "best_epoch": 3}
    folders.write_summary(tmp_path, content, RUN)
    for name, read in (
        ("summary.json", lambda: folders.summary(tmp_path)),
        ("config.json", lambda: read_or_none(tmp_path / "config.json")),
    ):
        path = tmp_path / name
        whole, expected = path.read_bytes(), read()
        assert expected is not None
        for position in range(len(whole)):
            for bit in range(8):
                flipped = bytes([whole[position] ^ 1 << bit])
                path.write_bytes(whole[:position] + flipped + whole[position + 1 :])
                assert read() in (None, expected), (position, bit)
        path.write_bytes(whole)


def read_or_none(path):
    try:
        return read_sealed(path)
    except SettingError:
        return None


def test_the_summary_of_another_run_does_not_count(tmp_path):
    other = {"definition": {"seed": 7}}
    for name, settings in (("ours", SETTINGS), ("theirs", other)):
        (tmp_path / name).mkdir()
        folders.begin(tmp_path / name, settings)
        folders.write_summary(tmp_path / name, {}, folders.run_digest(settings))
    theirs = (tmp_path / "theirs" / "summary.json").read_bytes()
    (tmp_path / "ours" / "summary.json").write_bytes(theirs)
    assert folders.summary(tmp_path / "ours") is None
    assert folders.summary(tmp_path / "ours", RUN) is None
    assert folders.state(tmp_path / "theirs") == State.DONE


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"definition": {}}'])
def test_damaged_settings_are_written_again(tmp_path, content, caplog):
    folders.begin(tmp_path, SETTINGS)
    (tmp_path / "last.pt").touch()
    (tmp_path / "config.json").write_bytes(content)
    assert folders.state(tmp_path) == State.CUT_OFF
    folders.begin(tmp_path, SETTINGS)
    assert "config.json is damaged or missing: written again" in caplog.text
    assert read_sealed(tmp_path / "config.json") == SETTINGS


def test_what_killed_processes_were_writing_is_swept_up(tmp_path):
    """But nothing that another program may be writing in the folder just now."""
    ours = [".summary.json.0123abcd", ".metrics.jsonl.00000000", ".new.pt.deadbeef"]
    theirs = [".best.onnx.0123abcd", ".summary.json.lock", ".summary.json.mine"]
    for name in ours + theirs:
        (tmp_path / name).touch()
    folders.begin(tmp_path, SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", *theirs}


def test_a_run_adds_to_its_log(tmp_path):
    for words in ("first", "second"):
        with folders.logging_to(tmp_path):
            logging.getLogger("expanders").warning(words)
        logging.getLogger("expanders").warning("elsewhere")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.rpartition(" WARNING expanders: ")[2] for line in lines] == ["first", "second"]


def test_a_log_on_a_full_disk_hides_no_other_error(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    (tmp_path / "run.log").symlink_to("/dev/full")

    def fail():
        with folders.logging_to(tmp_path):
            logging.getLogger("expanders").warning("a line")
            raise OSError("graph.json")

    with pytest.raises(OSError, match=r"graph\.json"):
        fail()


def test_sealed_files_give_back_what_they_were_given(tmp_path):
    content = {"b": [1.5, None, True], "a": {"é": "x", "nested": {"n": 1e300}}}
    write_sealed(tmp_path / "file.json", content)
    assert read_sealed(tmp_path / "file.json") == content
    assert json.loads((tmp_path / "file.json").read_text()).keys() == {"a", "b", "digest"}
