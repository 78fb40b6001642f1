"""The folder of a run: what state the run is in, who may write, and what must not change.

config.json     the settings that define the run
graph.json      the report of every layer
metrics.jsonl   one line per epoch
best.pt         the network to use
last.pt         the one to continue from; previous.pt: the one before it, new.pt: the next one
damaged-*.pt    checkpoints that could not be read
summary.json    the outcome; a run that has one is done
failure.json    why the last attempt failed
lock            held by the process that trains here; its content names that process
wandb_id        the run's identity on W&B; wandb/ holds its local files
"""

import fcntl
import itertools
import json
import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from expanders.errors import SettingError
from expanders.files import Stamp, stamp, write_json

log = logging.getLogger(__name__)

CHECKPOINTS = ("new.pt", "last.pt", "previous.pt")  # to continue from, the newest first

_PATIENCE = 60  # seconds; Slurm gives a process 30 between SIGTERM and SIGKILL, if not configured
_GLANCE = 1  # seconds; `state` has the lock for a moment


class State(StrEnum):
    """Where a run stands."""

    NEW = "to do"
    CUT_OFF = "to resume"
    RUNNING = "training"
    FAILED = "failed"
    DONE = "done"


def state(folder: Path) -> State:
    """Where the run in `folder` stands."""
    if (folder / "summary.json").exists():
        return State.DONE
    if _is_locked(folder):
        return State.RUNNING
    if (folder / "failure.json").exists():
        return State.FAILED
    return State.CUT_OFF if _has_weights(folder) else State.NEW


def summary(folder: Path) -> dict[str, Any]:
    """The outcome of a run that is done."""
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def finish(folder: Path) -> Stamp | None:
    """What tells one finish of a run from another, or None if it has not finished."""
    return stamp(folder / "summary.json")


def failure(folder: Path) -> str | None:
    """Why the last attempt failed, in one line, or None if it did not."""
    path = folder / "failure.json"
    return str(json.loads(path.read_text())["error"]) if path.exists() else None


def owner(folder: Path) -> str:
    """The process that trains in `folder`, or did so last."""
    return (folder / "lock").read_text().strip() or "another process"


def clear(folder: Path) -> None:
    """Remove a run's results from its folder, the summary first; logs stay."""
    for name in (
        *("summary.json", "failure.json", *CHECKPOINTS, "best.pt"),
        *(f"damaged-{checkpoint}" for checkpoint in CHECKPOINTS),
        *("metrics.jsonl", "graph.json", "config.json", "wandb_id"),
    ):
        (folder / name).unlink(missing_ok=True)


def forget_if_unused(folder: Path) -> None:
    """Remove a folder that holds only what Hydra leaves in it before a run begins."""
    with suppress(FileNotFoundError):  # another process of torchrun was faster
        if {path.name for path in folder.iterdir()} <= {".hydra", "run.log"}:
            shutil.rmtree(folder)


def mark_failed(folder: Path, error: BaseException) -> None:
    """Leave word of why the run failed, with the traceback."""
    trace = "".join(traceback.format_exception(error))
    write_json(folder / "failure.json", {"error": " ".join(str(error).split()), "traceback": trace})


def check_unchanged(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to continue a run of another definition than that in `config`.

    Raises:
        SettingError: with the settings that differ, if the folder holds results of a run.
    """
    path = folder / "config.json"
    if not path.exists() or not (_has_weights(folder) or state(folder) == State.DONE):
        return
    content = json.loads(path.read_text())
    old, new = (_flat(each.get("definition", {})) for each in (content, config))
    changes = [
        f"{key} {old.get(key, 'default')} -> {new.get(key, 'default')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changes:
        what = f"holds a run with other settings ({'; '.join(changes)})"
        remedy = f"{what}; choose another folder, or restart=true to train again"
        raise SettingError("hydra.run.dir", folder, remedy)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep every other process out of `folder`; yields whether a job was here before its requeue.

    The operating system holds the lock and drops it when the process ends, however it ends: there
    are no stale locks. On a network drive it holds between machines if the drive is mounted with
    locks (NFS is by default, Lustre with `-o flock`). A process waits for a second, a Slurm job
    for up to a minute: the process that it replaces may still be on its way out.

    Raises:
        SettingError: if another process has the lock, with the name of that process; or if the
            drive has no locks.
    """
    job = _slurm_job()
    name = f"process {os.getpid()} on {socket.gethostname()}"
    with (folder / "lock").open("a+") as file:
        _acquire(file, folder, _PATIENCE if job else _GLANCE)
        file.seek(0)
        suffix = f" (Slurm job {job})\n" if job else "\n"
        restarted = job is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        requeued = restarted and file.read().endswith(suffix)
        file.truncate(0)
        file.write(name + suffix)
        file.flush()
        yield requeued


def _slurm_job() -> str | None:
    """The present job as Slurm's commands name it: 17, or 17_3 in an array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


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


def _is_locked(folder: Path) -> bool:
    """Whether a process trains in `folder`."""
    try:
        with (folder / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks on this drive
        return False
    return False


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in CHECKPOINTS)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
