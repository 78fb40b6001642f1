"""Run folders on the disk as records of what they say: whole, cut off and damaged ones."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, get_args

from expanders.errors import SettingError
from expanders.report.json_files import (
    Unreadable,
    check_seal,
    checked_mapping,
    file_content,
    mapping,
    number,
    parsed,
    printable,
)
from expanders.runs import folders
from expanders.runs.computed import THIN
from expanders.runs.identity import named_choices
from expanders.seeds import Seed, seed_of
from expanders.training import metrics

RunState = Literal["finished", "failed", "unfinished"]

# What a folder has that a run was started in.
_SIGNS = {"config.json", "failure.json", "summary.json", "last.pt", ".hydra"}
_GROUPS = ("model", "graph", "dataset")


class Streams(NamedTuple):
    """The seeds of a run's random streams; graph is None where no edge depends on it."""

    graph: int | None
    init: int
    data: int

    @property
    def start(self) -> tuple[int, int]:
        """What decides the initial weights and what is seen in which order."""
        return self.init, self.data


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says.

    Attributes:
        folder: where it lies.
        config: its resolved settings, nested.
        streams: its seeds.
        state: `finished` with an accuracy, `failed`, or `unfinished` (cut off, or still running).
        summary: the numbers of its summary.json, by name; empty unless it finished.
        wiring: what its graph.json says; nothing before the run has wired its network.
        error: why it failed, in one line.
        test_read_before: whether it went on with a run whose test accuracy was known.
        metrics_digest: of its metrics.jsonl when it finished, if its summary tells.
    """

    folder: Path
    config: Mapping[str, Any]
    streams: Streams
    state: RunState
    summary: Mapping[str, float]
    wiring: "GraphFile"
    error: str = ""
    test_read_before: bool = False
    metrics_digest: str | None = None

    @property
    def definition(self) -> Mapping[str, Any]:
        """What makes it this run and no other, nested; see `expanders.runs.identity`."""
        definition: Mapping[str, Any] = self.config["definition"]
        return definition

    @property
    def choices(self) -> Mapping[str, str]:
        """The choices: model, graph, dataset and others; a model or data set by its own name."""
        return named_choices(self.config["choices"], self.definition)

    @property
    def is_twin(self) -> bool:
        """Whether it is a dense twin, whatever its option is called: these have no degree."""
        return "degree" not in self.choices

    @property
    def is_wired(self) -> bool:
        """Whether it has a graph: it is neither a dense twin nor a thin dense network."""
        return _is_wired(self.choices)

    @property
    def accuracy(self) -> float:
        """Test accuracy of a finished run, from 0 to 1."""
        return self.summary[metrics.TEST_ACCURACY]

    @property
    def density(self) -> float | None:
        """Live parameters of the whole network as a share of its dense twin's, if known."""
        return self.share(metrics.LIVE_PARAMETERS, metrics.DENSE_PARAMETERS)

    @property
    def disconnected(self) -> float | None:
        """The share of its wired layers whose graph is not connected, if known."""
        count = self.summary.get(metrics.DISCONNECTED_LAYERS)
        layers = len(self.wiring.layers)
        return None if count is None or not layers else count / layers

    @property
    def needs(self) -> tuple[str, ...]:
        """What its wiring looked at: weights, 100 images; nothing for graph models."""
        images = f"{self.config['graph'].get('images', '')} images".strip()
        seen = {"init": "weights", "data": images}
        return tuple(w for stream, w in seen.items() if stream in (self.wiring.streams or ()))

    def share(self, name: str, whole: str) -> float | None:
        """One positive number of the summary divided by another, if both are there.

        Not of a thin network: it is its own dense twin.
        """
        if self.choices["graph"] == THIN:
            return None
        first, second = self.summary.get(name, 0), self.summary.get(whole, 0)
        return first / second if first > 0 and second > 0 else None

    def history(self) -> list[dict[str, Any]]:
        """The metrics of the epochs that it has done; lines that are not JSON are left out.

        None at all where the file is not the one that the run finished with.
        """
        if self.has_other_metrics:
            return []
        try:
            lines = file_content(self.folder / "metrics.jsonl").decode().splitlines()
        except (Unreadable, UnicodeDecodeError):
            return []
        try:
            rows = json.loads(f"[{','.join(lines)}]")  # one call for the file is much the fastest
        except (ValueError, RecursionError):
            rows = [parsed(line) for line in lines]
        return [r for r in rows if isinstance(r, dict) and number(r.get(metrics.EPOCH)) is not None]

    @cached_property
    def has_other_metrics(self) -> bool:
        """Whether its metrics.jsonl was changed or removed after it finished."""
        if self.metrics_digest is None:
            return False
        try:
            content = file_content(self.folder / "metrics.jsonl")
        except Unreadable:
            return True
        return hashlib.sha256(content).hexdigest() != self.metrics_digest

    @cached_property
    def images_per_second(self) -> float | None:
        """The median over its epochs."""
        speeds = [number(row.get(metrics.IMAGES_PER_SECOND)) for row in self.history()]
        known = [speed for speed in speeds if speed is not None]
        return median(known) if known else None


class GraphFile(NamedTuple):
    """What the file graph.json of a run says.

    Attributes:
        layers: name and number of edges of each layer that was wired.
        streams: names of the random streams that the edges depend on; None if not known.
    """

    layers: tuple[tuple[str, int], ...] = ()
    streams: tuple[str, ...] | None = None


class Skipped(NamedTuple):
    """A path that could not be used, and why."""

    path: Path
    reason: str


def read_records(root: Path) -> tuple[list[RunRecord], list[Skipped]]:
    """The records of all runs in `root` and below it, and what could not be read as one.

    Raises:
        SettingError: if there is no such folder, or nothing in it is a run.
    """
    if not root.is_dir():
        raise SettingError("RUNS_DIR", root, "there is no such folder")
    skipped: list[Skipped] = []
    records = []
    for folder in _run_folders(root, skipped):
        try:
            records.append(record := _record(folder))
            if record.has_other_metrics:
                reason = "was changed or removed after the run ended: no curve and no speed of it"
                skipped.append(Skipped(folder / "metrics.jsonl", reason))
        except Unreadable as error:
            skipped.append(Skipped(folder, str(error)))
    if not records:
        found = f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
        remedy = "give the folder that launch.py writes to, its runs_dir"
        raise SettingError("RUNS_DIR", root, f"holds no run that can be read{found}; {remedy}")
    return records, skipped


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
            continue
        for entry in entries:
            try:
                if entry.is_dir() and not entry.name.startswith("."):
                    pending.append(folder / entry.name)
            except OSError as error:  # a link to itself
                skipped.append(Skipped(folder / entry.name, error.strerror or str(error)))


def _record(folder: Path) -> RunRecord:
    config = checked_mapping(folder / "config.json")
    wiring = _wiring(folder)
    streams = _streams(config, wiring)
    check_seal(folder / "config.json")
    state: RunState = "unfinished"
    error = ""
    summary: dict[str, float] = {}
    known: Mapping[str, Any] = {}
    try:
        if os.path.lexists(folder / "summary.json"):
            known = checked_mapping(folder / "summary.json")
            summary = {k: v for k, value in known.items() if (v := number(value)) is not None}
            if not 0 <= summary.get(metrics.TEST_ACCURACY, -1) <= 1:
                what = f"summary.json has no {metrics.TEST_ACCURACY} between 0 and 1"
                raise Unreadable(what)
            check_seal(folder / "summary.json")
            if known.get("run") != folders.run_digest(config):
                raise Unreadable("summary.json is that of another run")
            state = "finished"
        elif os.path.lexists(folder / "failure.json"):
            state = "failed"
            error = printable(str(mapping(folder / "failure.json").get("error", "")))
    except Unreadable as reason:
        state, summary, error = "failed", {}, str(reason)
    known_before = known.get(metrics.TEST_READ_BEFORE) is True
    history = known.get(folders.METRICS_DIGEST) if state == "finished" else None
    return RunRecord(folder, config, streams, state, summary, wiring, error, known_before, history)


def _is_wired(choices: Mapping[str, str]) -> bool:
    return "degree" in choices and choices["graph"] != THIN


def _wiring(folder: Path) -> GraphFile:
    """What graph.json says, and nothing where it cannot be read."""
    try:
        known = mapping(folder / "graph.json")
        wired = [layer for layer in known["layers"] if not layer["kept"]]
        layers = [(str(layer["name"]), number(layer["edges"]) or 0) for layer in wired]
        streams = tuple(str(name) for name in known["streams"])
    except (Unreadable, KeyError, TypeError, AttributeError):
        return GraphFile()
    return GraphFile(tuple((name, int(edges)) for name, edges in layers if edges > 0), streams)


def _streams(config: Mapping[str, Any], wiring: GraphFile) -> Streams:
    """The seeds of a configuration that has all that the report needs."""
    choices = config.get("choices")
    if (
        not isinstance(choices, dict)
        or not all(isinstance(name, str) and name for name in choices.values())
        or not choices.keys() >= set(_GROUPS)
    ):
        words = ", ".join(_GROUPS)
        raise Unreadable(f"config.json is not that of a run: no choices of {words} by name")
    definition = config.get("definition")
    if not isinstance(definition, dict):
        raise Unreadable("config.json is not that of a run: it has no definition")
    groups = [c.get(name, {}) for c in (config, definition) for name in (*_GROUPS, "degree")]
    if not all(isinstance(group, dict) for group in groups):
        raise Unreadable("config.json is not that of a run: a group is not a mapping")
    pinned = config.get("seeds")
    known = {"seed": config.get("seed"), "seeds": pinned if isinstance(pinned, dict) else {}}
    seeds = [seed_of(known, name) for name in get_args(Seed)]
    whole = [seed for seed in seeds if isinstance(seed, int) and not isinstance(seed, bool)]
    if len(whole) < len(seeds):
        raise Unreadable("config.json has no whole numbers for seed and seeds")
    if "graph" not in config:
        raise Unreadable("config.json is not that of a run: it has no settings of its graph")
    graph, init, data = whole
    may_draw = wiring.streams is None or "graph" in wiring.streams
    drawn = _is_wired(choices) and may_draw
    return Streams(graph if drawn else None, init, data)
