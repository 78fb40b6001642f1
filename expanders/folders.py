"""The folder of a run: what state the run is in, who may write, and what must not change.

config.json     the settings that define the run
graph.json      the report of every layer
metrics.jsonl   one line per epoch
best.pt         the network to use; last.pt and previous.pt: those to continue from
summary.json    the outcome; a run that has one is done
failure.json    why the last attempt failed
lock            held by the process that trains here; its content names that process
wandb_id        the run's identity on W&B; wandb/ holds its local files
"""

import fcntl
import json
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from expanders.errors import SettingError
from expanders.files import write_json


class State(StrEnum):
    """Where a run stands."""

    NEW = "to do"
    CUT_OFF = "to resume"
    FAILED = "failed"
    DONE = "done"


def state(folder: Path) -> State:
    """Where the run in `folder` stands. A run that is being trained counts as cut off."""
    if (folder / "summary.json").exists():
        return State.DONE
    if (folder / "failure.json").exists():
        return State.FAILED
    return State.CUT_OFF if _has_weights(folder) else State.NEW


def summary(folder: Path) -> dict[str, Any]:
    """The outcome of a run that is done."""
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def failure(folder: Path) -> str | None:
    """Why the last attempt failed, in one line, or None if it did not."""
    path = folder / "failure.json"
    return str(json.loads(path.read_text())["error"]) if path.exists() else None


def clear(folder: Path) -> None:
    """Remove a run's results from its folder, the summary first; logs stay."""
    for name in (
        *("summary.json", "failure.json", "last.pt", "previous.pt", "best.pt"),
        *("metrics.jsonl", "graph.json", "config.json", "wandb_id"),
    ):
        (folder / name).unlink(missing_ok=True)


def mark_failed(folder: Path, error: BaseException) -> None:
    """Leave word of why the run failed, with the traceback."""
    trace = "".join(traceback.format_exception(error))
    write_json(folder / "failure.json", {"error": " ".join(str(error).split()), "traceback": trace})


def check_unchanged(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Raises:
        SettingError: with the settings that differ, if the folder holds results of a run.
    """
    path = folder / "config.json"
    if not path.exists() or not (_has_weights(folder) or state(folder) == State.DONE):
        return
    old, new = (_flat(settings) for settings in (json.loads(path.read_text()), config))
    changes = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changes:
        what = f"holds a run with other settings ({'; '.join(changes)})"
        remedy = f"{what}; choose another folder, or restart=true to train again"
        raise SettingError("hydra.run.dir", folder, remedy)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of `folder`.

    The operating system holds the lock and drops it when the process ends, however it ends: there
    are no stale locks. On a network drive this holds between machines where the drive has locks.

    Raises:
        SettingError: if another process has the lock; the message names the process.
    """
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            remedy = f"{file.read().strip()} is training in this folder; wait for it or stop it"
            raise SettingError("hydra.run.dir", folder, remedy) from None
        file.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        name = f"process {os.getpid()} on {socket.gethostname()}"
        file.write(f"{name} (Slurm job {job})\n" if job else f"{name}\n")
        file.flush()
        yield


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("last.pt", "previous.pt"))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
