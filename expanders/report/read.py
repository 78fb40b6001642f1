"""Run folders read from the disk, whole, cut off and broken ones."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expanders.errors import SettingError
from expanders.training import metrics

DENSE = "dense"  # the graph model of unpruned networks

# What a folder has that a run was started in.
_SIGNS = {"config.json", "failure.json", "summary.json", "last.pt", ".hydra"}


class Streams(NamedTuple):
    """The seeds of a run's random streams; a dense network has no graph to draw."""

    graph: int | None
    init: int
    data: int

    @property
    def start(self) -> tuple[int, int]:
        """What decides the initial weights and what is seen in which order."""
        return self.init, self.data


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: where it lies.
        config: its resolved settings, nested.
        streams: its seeds.
        state: `finished` with an accuracy, `failed`, or `unfinished` (cut off, or still running).
        summary: the numbers of its summary, by name; empty unless it finished.
        error: why it failed, in one line.
    """

    folder: Path
    config: Mapping[str, Any]
    streams: Streams
    state: Literal["finished", "failed", "unfinished"]
    summary: Mapping[str, float]
    error: str = ""

    @property
    def choices(self) -> Mapping[str, str]:
        """The named choices: model, graph, dataset and others."""
        choices: Mapping[str, str] = self.config["choices"]
        return choices

    @property
    def accuracy(self) -> float:
        """Test accuracy of a finished run, from 0 to 1."""
        return self.summary[metrics.TEST_ACCURACY]

    @property
    def density(self) -> float | None:
        """Live parameters over those of the dense twin, or None where they are not known."""
        live, dense = map(self.summary.get, (metrics.LIVE_PARAMETERS, metrics.DENSE_PARAMETERS))
        return None if live is None or not dense else live / dense


class Skipped(NamedTuple):
    """A path that could not be used, and why."""

    path: Path
    reason: str


def read_runs(root: Path) -> tuple[list[Run], list[Skipped]]:
    """All runs in `root` and the folders below it, and what could not be read as one.

    Raises:
        SettingError: if there is no such folder, or nothing in it is a run.
    """
    if not root.is_dir():
        raise SettingError("RUNS_DIR", root, "there is no such folder")
    skipped: list[Skipped] = []
    runs = []
    for folder in _run_folders(root, skipped):
        try:
            runs.append(_read_run(folder))
        except _Unreadable as error:
            skipped.append(Skipped(folder, str(error)))
    if not runs:
        found = f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
        remedy = "give the folder that launch.py writes to, its runs_dir"
        raise SettingError("RUNS_DIR", root, f"holds no run that can be read{found}; {remedy}")
    return runs, skipped


def history(run: Run) -> list[dict[str, Any]]:
    """The metrics of the epochs that a run has done; lines that are not JSON are left out."""
    try:
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    try:
        rows = json.loads(f"[{','.join(lines)}]")  # one call for the file is much the fastest
    except ValueError:
        rows = [row for row in map(_parsed, lines) if row is not None]
    return [
        row for row in rows if isinstance(row, dict) and number(row.get(metrics.EPOCH)) is not None
    ]


def layers(run: Run) -> list[tuple[str, int]]:
    """Name and number of edges of each layer that the graph model wired."""
    try:
        report = _json(run.folder / "graph.json")["layers"]
        wired = [layer for layer in report if not layer["note"].startswith("kept")]
        return [(str(layer["name"]), int(layer["edges"])) for layer in wired]
    except (_Unreadable, KeyError, TypeError, ValueError, AttributeError):
        return []


def number(value: object) -> float | None:
    """`value` if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


class _Unreadable(Exception):
    """A file that is not what it should be; the message is for the user."""


def _run_folders(root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Folders that a run was started in, in order of their names; links are followed once."""
    seen = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            skipped.append(Skipped(folder, error.strerror or str(error)))
            continue
        if _SIGNS & {entry.name for entry in entries}:
            yield folder
        else:
            inner = [e for e in entries if e.is_dir() and not e.name.startswith(".")]
            pending += [folder / entry.name for entry in inner]


def _read_run(folder: Path) -> Run:
    config = _json(folder / "config.json")
    streams = _streams(config)
    state: Literal["finished", "failed", "unfinished"] = "unfinished"
    error = ""
    summary: dict[str, float] = {}
    try:
        if (folder / "summary.json").exists():
            content = _json(folder / "summary.json")
            summary = {k: v for k, value in content.items() if (v := number(value)) is not None}
            if not 0 <= summary.get(metrics.TEST_ACCURACY, -1) <= 1:
                raise _Unreadable(f"summary.json has no {metrics.TEST_ACCURACY} between 0 and 1")
            state = "finished"
        elif (folder / "failure.json").exists():
            state = "failed"
            error = " ".join(str(_json(folder / "failure.json").get("error", "")).split())
    except _Unreadable as reason:
        state, summary, error = "failed", {}, str(reason)
    return Run(folder, config, streams, state, summary, error)


def _streams(config: Mapping[str, Any]) -> Streams:
    """The seeds of a configuration that has all that the report needs."""
    choices = config.get("choices")
    names = ("model", "graph", "dataset")
    if not isinstance(choices, dict) or not all(isinstance(choices.get(n), str) for n in names):
        raise _Unreadable(f"config.json is not that of a run: no choices of {', '.join(names)}")
    if not all(isinstance(config.get(name, {}), dict) for name in (*names, "degree")):
        raise _Unreadable("config.json is not that of a run: a group is not a mapping")
    pinned = config.get("seeds")
    own = pinned if isinstance(pinned, dict) else {}
    seeds = [config.get("seed") if own.get(n) is None else own[n] for n in Streams._fields]
    whole = [seed for seed in seeds if isinstance(seed, int)]
    if len(whole) < len(seeds):
        raise _Unreadable("config.json has no whole numbers for seed and seeds")
    graph, init, data = whole
    return Streams(None if choices["graph"] == DENSE else graph, init, data)


def _json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _Unreadable(f"has no {path.name}") from None
    except OSError as error:
        raise _Unreadable(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _Unreadable(f"{path.name} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise _Unreadable(f"{path.name} holds no mapping")
    return content


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
