import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from expanders.errors import SettingError
from expanders.runs import folders
from expanders.runs import lock as lock_module
from expanders.runs.folders import State
from expanders.runs.lock import LostLockError, locked, owner
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from expanders.runs.lock import locked
with locked(Path(sys.argv[1])):
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
        with locked(tmp_path):
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
            with locked(tmp_path) as lock:
                seen.append(lock.requeued)
    assert seen == [False, False, True, False, False, False, False]
    with monkeypatch.context() as patch:
        for name, value in second.items():
            patch.setenv(name, value)
        with locked(tmp_path):
            assert "(Slurm job 7_11)" in (tmp_path / "lock").read_text()


def test_a_drive_without_locks_is_named(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    with (
        pytest.raises(
            SettingError, match=r"^runs_dir=.*: its drive has no file locks \(Function n"
        ),
        locked(tmp_path),
    ):
        pass


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        assert folders.state(tmp_path) == State.RUNNING
        assert owner(tmp_path).startswith(f"process {holder.pid} on ")
        with (
            pytest.raises(SettingError, match=rf"process {holder.pid} on .* is training in this"),
            locked(tmp_path),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert folders.state(tmp_path) == State.NEW
        with locked(tmp_path):
            assert str(os.getpid()) in Path(tmp_path / "lock").read_text()
    finally:
        holder.kill()
        holder.stdout.close()
        holder.wait()


def test_a_lock_that_was_removed_is_noticed(tmp_path):
    """By its owner, before it writes anything more: a second process can have it now."""
    with locked(tmp_path) as first:
        first.check()
        (tmp_path / "lock").unlink()
        with pytest.raises(LostLockError, match="lock: is gone: another process may train here"):
            first.check()
        with locked(tmp_path) as second:
            second.check()
            with pytest.raises(LostLockError, match="lock: was replaced: another process may"):
                first.check()


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    """As by a dry run that finds it empty, between its creation and its lock."""
    folder = tmp_path / "run"
    acquire = lock_module._acquire
    calls = []

    def slow(file, *rest):
        acquire(file, *rest)
        calls.append(1)
        if len(calls) == 1:
            shutil.rmtree(folder)

    monkeypatch.setattr(lock_module, "_acquire", slow)
    with locked(folder) as lock:
        lock.check()
    assert len(calls) == 2
