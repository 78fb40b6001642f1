"""The folder of a run: what state the run is in, what it came to, and what must not change.

config.json     the settings that define the run
graph.json      the report of every layer
metrics.jsonl   one line per epoch
best.pt         the network to use
last.pt         the one to continue from; previous.pt: the one before it, new.pt: the next one
damaged-*.pt    checkpoints that are damaged
summary.json    the outcome; a run that has one is done
failure.json    why the last attempt failed
run.log         what the run has printed, with times
lock            held by the process that trains here; its content names that process
wandb_id        the run's identity on W&B; wandb/ holds its local files

config.json, summary.json and the checkpoints carry the digest of the run's definition, and are not
believed in another run's folder. The first two also carry a digest of their content, and
summary.json one of metrics.jsonl.
"""

import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from expanders.errors import DamagedError, SettingError, one_line
from expanders.files import (
    Stamp,
    digest,
    file_digest,
    read_sealed,
    remove_leftovers,
    stamp,
    write_json,
    write_sealed,
)
from expanders.runs.lock import is_locked

log = logging.getLogger(__name__)

CHECKPOINTS = ("new.pt", "last.pt", "previous.pt")  # to continue from, the newest first
BEST = "best.pt"
METRICS_DIGEST = "metrics"  # in summary.json

_RESULTS = (  # of a run, in the order in which `clear` removes them
    "summary.json",
    "failure.json",
    *CHECKPOINTS,
    BEST,
    "metrics.jsonl",
    "graph.json",
    "config.json",
    "wandb_id",
)
_LOG_FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"


class State(StrEnum):
    """Where a run stands."""

    NEW = "to do"
    CUT_OFF = "to resume"
    RUNNING = "training"
    FAILED = "failed"
    DONE = "done"


def state(folder: Path) -> State:
    """Where the run in `folder` stands."""
    if summary(folder) is not None:
        return State.DONE
    if is_locked(folder):
        return State.RUNNING
    if (folder / "failure.json").exists():
        return State.FAILED
    return State.CUT_OFF if _has_results(folder) else State.NEW


def run_digest(record: Mapping[str, Any]) -> str:
    """What tells a run from all others: the digest of the definition in its settings."""
    return digest(record["definition"])


def summary(folder: Path, run: str | None = None) -> dict[str, Any] | None:
    """The outcome of the run in `folder`, or None without one that can be believed.

    `run` is the digest that it must be of; by default that in config.json, where that is whole.
    """
    try:
        content = read_sealed(folder / "summary.json")
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return None
    of = content.pop("run", None)
    content.pop(METRICS_DIGEST, None)
    if run is None:
        with suppress(FileNotFoundError, DamagedError):
            run = run_digest(read_sealed(folder / "config.json"))
    return content if run is None or of == run else None


def write_summary(folder: Path, content: Mapping[str, Any], run: str) -> None:
    """Write the outcome of a run, which is then done."""
    history = file_digest(folder / "metrics.jsonl")
    write_sealed(folder / "summary.json", {**content, "run": run, METRICS_DIGEST: history})


def finish(folder: Path) -> Stamp | None:
    """What tells one finish of a run from another, or None if it has not finished."""
    return stamp(folder / "summary.json")


def failure(folder: Path) -> str | None:
    """Why the last attempt failed, in one line, or None if it did not or nothing tells."""
    try:
        return str(json.loads((folder / "failure.json").read_bytes())["error"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def mark_failed(folder: Path, error: BaseException) -> None:
    """Write down why the run failed, with the traceback, if that can be written."""
    trace = "".join(traceback.format_exception(error))
    content = {"error": one_line(error), "traceback": trace}
    try:
        write_json(folder / "failure.json", content)
    except OSError as unwritten:  # a full disk, a folder that was removed: not what to report
        log.debug("failure.json was not written: %s", unwritten)


def clear(folder: Path) -> None:
    """Remove a run's results from its folder, the summary first; logs stay."""
    for path in (*(folder / name for name in _RESULTS), *folder.glob("damaged-*.pt")):
        path.unlink(missing_ok=True)


def forget_if_unused(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):
        folder.rmdir()


def tidy(folder: Path) -> None:
    """Remove what a killed process was writing. Only the owner of the lock may do so."""
    for name in _RESULTS:
        remove_leftovers(folder / name)


def begin(folder: Path, record: Mapping[str, Any]) -> None:
    """Make a folder, whose lock this process has, ready for a run of these settings.

    Raises:
        SettingError: with the settings that differ, if it holds results of another run.
    """
    check_unchanged(folder, record)
    tidy(folder)
    if _has_results(folder) and _settings_before(folder) is None:
        # The checkpoints say which run they are of.
        log.warning("%s is damaged or missing: written again", folder / "config.json")
    if (folder / "summary.json").exists() and summary(folder, run_digest(record)) is None:
        what = "is damaged, or another run's: the best network is evaluated again"
        log.warning("%s %s", folder / "summary.json", what)
    (folder / "failure.json").unlink(missing_ok=True)
    write_sealed(folder / "config.json", record)


def check_unchanged(folder: Path, record: Mapping[str, Any]) -> None:
    """Make sure that the results in a folder, if there are any, are of a run of these settings.

    Raises:
        SettingError: with the settings that differ.
    """
    settings = _settings_before(folder)
    if settings and (changes := differences(settings, record).values()):
        what = f"holds a run with other settings ({'; '.join(changes)})"
        remedy = f"{what}; choose another folder, or restart=true to train again"
        raise SettingError("hydra.run.dir", folder, remedy)


def _settings_before(folder: Path) -> dict[str, Any] | None:
    """The settings of the run whose results are in a folder, where they can be had."""
    with suppress(FileNotFoundError, NotADirectoryError, DamagedError):
        return read_sealed(folder / "config.json") if _has_results(folder) else None
    return None


def settings_of(folder: Path, setting: str) -> dict[str, Any]:
    """The settings of the run in a folder that the user has named, by `setting`.

    Raises:
        SettingError: if there is no run, or its settings cannot be read.
    """
    try:
        return read_sealed(folder / "config.json")
    except DamagedError:
        remedy = "has a damaged config.json; the command that made it writes it again"
    except OSError as error:
        remedy = f"is not the folder of a run ({error.strerror})"
    raise SettingError(setting, folder, remedy) from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """What differs between the definitions in two runs' settings: `optimizer.lr 0.1 -> 0.2`."""
    before, after = (by_dotted_key(each["definition"]) for each in (old, new))
    return {
        key: f"{key} {before.get(key, 'default')} -> {after.get(key, 'default')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    }


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Add all that is logged meanwhile to run.log, as far as the disk has room for it."""
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        with suppress(OSError):  # a full disk, on which other files are named
            handler.close()


def _has_results(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*CHECKPOINTS, "summary.json"))


def by_dotted_key(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as on the command line: `{"optimizer.lr": 0.1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= by_dotted_key(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
