import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from expanders.errors import SettingError
from expanders.runs import folders
from expanders.runs.folders import State
from tests.conftest import ROOT


def test_a_run_goes_through_its_states(tmp_path):
    assert folders.state(tmp_path) == State.NEW
    (tmp_path / "last.pt").touch()
    assert folders.state(tmp_path) == State.CUT_OFF
    folders.mark_failed(tmp_path, ValueError("no\nluck"))
    assert folders.state(tmp_path) == State.FAILED
    assert json.loads((tmp_path / "failure.json").read_text())["error"] == "no luck"
    (tmp_path / "summary.json").write_text('{"test/accuracy": 0.5}')
    assert folders.state(tmp_path) == State.DONE
    assert folders.summary(tmp_path) == {"test/accuracy": 0.5}
    (tmp_path / "run.log").touch()
    folders.clear(tmp_path)
    assert folders.state(tmp_path) == State.NEW
    assert [path.name for path in tmp_path.iterdir()] == ["run.log"]


def test_a_folder_is_forgotten_only_while_it_holds_nothing_of_a_run(tmp_path):
    for names, stays in (((".hydra", "run.log"), False), ((".hydra", "config.json"), True)):
        folder = tmp_path / names[1]
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        folders.forget_if_unused(folder)
        assert folder.exists() == stays


def test_a_failure_keeps_its_traceback(tmp_path):
    try:
        int("x")
    except ValueError as error:
        folders.mark_failed(tmp_path, error)
    assert 'int("x")' in json.loads((tmp_path / "failure.json").read_text())["traceback"]


def test_changed_settings_are_refused_with_the_list_of_changes(tmp_path):
    old = {"definition": {"epochs": 3, "optimizer": {"lr": 0.1}, "gone": 1}, "other": 1}
    new = {"definition": {"epochs": 3, "optimizer": {"lr": 0.2}, "more": 2}, "other": 2}
    (tmp_path / "config.json").write_text(json.dumps(old))
    folders.check_unchanged(tmp_path, new)  # nothing was trained yet
    (tmp_path / "last.pt").touch()
    folders.check_unchanged(tmp_path, old)
    changes = r"gone 1 -> default; more default -> 2; optimizer.lr 0.1 -> 0.2"
    with pytest.raises(SettingError, match=rf"\({changes}\); choose another folder, or restart"):
        folders.check_unchanged(tmp_path, new)


HOLD = """
import sys, time
from pathlib import Path
from expanders.runs import folders
with folders.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_job_of_slurm_waits_for_the_process_that_it_replaces(tmp_path, monkeypatch, caplog):
    """Which is about to be killed; one of a user would be refused after a second."""
    caplog.set_level("INFO")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        threading.Timer(2, holder.kill).start()
        with folders.locked(tmp_path):
            pass
    assert f"process {holder.pid} on" in caplog.text
    assert "is training in this folder: waiting for up to 60 s" in caplog.text


def test_a_requeued_job_is_told_from_another_one(tmp_path, monkeypatch):
    """`restart=true` holds once for a job, not again when it goes on after a requeue.

    It holds again where it is typed again, in the same interactive job.
    """
    first = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    again = first | {"SLURM_RESTART_COUNT": "1"}
    second = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "11"}
    seen = []
    for variables in (first, first, again, second, {}, {}, again):
        with monkeypatch.context() as patch:
            for name in again:
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            with folders.locked(tmp_path) as requeued:
                seen.append(requeued)
    assert seen == [False, False, True, False, False, False, False]
    with monkeypatch.context() as patch:
        for name, value in second.items():
            patch.setenv(name, value)
        with folders.locked(tmp_path):
            assert "(Slurm job 7_11)" in (tmp_path / "lock").read_text()


def test_a_drive_without_locks_is_named(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(folders.fcntl, "flock", flock)
    with (
        pytest.raises(
            SettingError, match=r"^runs_dir=.*: its drive has no file locks \(Function n"
        ),
        folders.locked(tmp_path),
    ):
        pass


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        assert folders.state(tmp_path) == State.RUNNING
        assert folders.owner(tmp_path).startswith(f"process {holder.pid} on ")
        with (
            pytest.raises(SettingError, match=rf"process {holder.pid} on .* is training in this"),
            folders.locked(tmp_path),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert folders.state(tmp_path) == State.NEW
        with folders.locked(tmp_path):
            assert str(os.getpid()) in Path(tmp_path / "lock").read_text()
    finally:
        holder.kill()
        holder.stdout.close()
        holder.wait()
