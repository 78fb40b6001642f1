"""One process at a time in the folder of a run."""

import fcntl
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from expanders.errors import SettingError

log = logging.getLogger(__name__)

_PATIENCE = 60  # seconds; Slurm gives a process 30 between SIGTERM and SIGKILL, if not configured
_GLANCE = 1  # seconds; `is_locked` has the lock for a moment


class LostLockError(SettingError):
    """The lock was removed or replaced: another process may train in the folder."""


@dataclass(frozen=True)
class Lock:
    """The lock of a folder, while this process has it.

    Attributes:
        path: of the lock's file.
        file: this process's, open and locked.
        requeued: whether a job of Slurm was here before it went back to the queue.
    """

    path: Path
    file: TextIO
    requeued: bool

    def check(self) -> None:
        """Make sure that no other process can have the lock.

        Raises:
            LostLockError: if the file is gone, or is another one.
        """
        if not _is_at(self.path, self.file):
            gone = "was replaced" if self.path.exists() else "is gone"
            remedy = "another process may train here now, so this one stopped without a checkpoint"
            raise LostLockError("hydra.run.dir", self.path, f"{gone}: {remedy}")


@contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """Keep every other process out of `folder`, which is made if it does not exist.

    The operating system holds the lock and drops it when the process ends, however it ends: there
    are no stale locks. On a network drive it holds between machines if the drive is mounted with
    locks (NFS is by default, Lustre with `-o flock`). A process waits for a second, a Slurm job
    for up to a minute: the process that it replaces may still be on its way out.

    Raises:
        SettingError: if another process has the lock, with the name of that process; or if the
            drive has no locks.
    """
    job = _slurm_job()
    path = folder / "lock"
    name = f"process {os.getpid()} on {socket.gethostname()}"
    with _acquired(path, _PATIENCE if job else _GLANCE) as file:
        file.seek(0)
        suffix = f" (Slurm job {job})\n" if job else "\n"
        restarted = job is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        requeued = restarted and file.read().endswith(suffix)
        file.truncate(0)
        file.write(name + suffix)
        file.flush()
        yield Lock(path, file, requeued)


def is_locked(folder: Path) -> bool:
    """Whether a process trains in `folder`."""
    try:
        with (folder / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks on this drive
        return False
    return False


def owner(folder: Path) -> str:
    """The process that trains in `folder`, or did so last."""
    text = (folder / "lock").read_text(errors="replace")
    return " ".join(text.split()) or "another process"


def _slurm_job() -> str | None:
    """The present job as Slurm's commands name it: 17, or 17_3 in an array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


@contextmanager
def _acquired(path: Path, patience: float) -> Iterator[TextIO]:
    """The file at `path`, locked; another one where a process removed it meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", errors="replace")
        except FileNotFoundError:  # a dry run has removed the empty folder
            continue
        with file:
            _acquire(file, path.parent, patience)
            if _is_at(path, file):
                yield file
                return


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether `file` is the one that lies at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _acquire(file: TextIO, folder: Path, patience: float) -> None:
    """Lock `file`, after at most `patience` seconds."""
    deadline = time.monotonic() + patience
    for attempt in itertools.count():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            busy = f"{owner(folder)} is training in this folder"
        except OSError as error:
            remedy = f"its drive has no file locks ({error.strerror}); mount it with locks"
            raise SettingError("runs_dir", folder.parent, f"{remedy}, or use another") from None
        if time.monotonic() >= deadline:
            raise SettingError("hydra.run.dir", folder, f"{busy}; wait for it or stop it")
        if attempt == 1:
            log.info("%s: waiting for up to %d s", busy, patience)
        time.sleep(0.3)
