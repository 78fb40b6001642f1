"""Where a run belongs: its settings, cut into those that tables, columns, arms and cells share."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expanders.report.run_records import DENSE, RunRecord

Settings = tuple[tuple[str, Any], ...]  # flat keys and values, in order: usable as a key
Option = tuple[str, Settings]  # the name of a choice in a group, and its settings

# Streams hold the seeds; what a recipe chooses stands in optimizer and schedule; choices are taken
# by name; and what is measured of a graph does not change it.
_IGNORED = re.compile(r"(choices|seeds?|recipe|graph\.measures)(\.|$)|.*\b_(partial|target)_$")
_ROOT = re.compile(r"dataset\.(source\.)?root$")


class Group(NamedTuple):
    """What a dense twin shares with the sparse networks beside it."""

    dataset: str
    family: str
    context: Settings


class Place(NamedTuple):
    """Where one run belongs.

    Attributes:
        record: the run.
        group: data set, family of models, and all settings that are not named below.
        model, graph: the choice and its own settings.
        degree: the numbers of the degree policy, without the policy's prefix; empty if dense.
        policy: the policy's name and its settings that are not numbers; empty if dense.
        tuned: the settings that were declared to be tuned for each arm.
    """

    record: RunRecord
    group: Group
    model: Option
    graph: Option
    degree: Settings
    policy: Settings
    tuned: Settings


def place(record: RunRecord, tuned: Collection[str] = ()) -> Place:
    """The place of a run, from its settings; keys in `tuned` do not tell arms or tables apart."""
    choices = record.choices
    cut: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in _flat(record.config):
        if _IGNORED.match(key):
            continue
        # Where a data set lies does not matter, unless the folder is all that names it.
        if _ROOT.match(key) and choices["dataset"] != "image_folder":
            continue
        group, _, rest = key.partition(".")
        if key in tuned:
            cut["tuned"][key] = value
        elif key == "init.fan":  # of sparse layers; the dense twin is the same for all
            if choices["graph"] != DENSE:
                cut["graph"][key] = value
        elif group in ("model", "graph"):
            cut[group][rest] = value
        elif group == "degree":
            kind = "degree" if isinstance(value, int | float) else "policy"
            cut[kind][rest if kind == "degree" else key] = value
        else:
            cut["context"][key] = value
    for name in ("optimizer", "schedule"):
        if name in choices:
            cut["context"][name] = choices[name]
    if cut["degree"] or cut["policy"]:
        cut["policy"]["degree"] = choices.get("degree", "constant")
    frozen = {name: tuple(sorted(settings.items())) for name, settings in cut.items()}
    return Place(
        record=record,
        group=Group(choices["dataset"], family(choices["model"]), frozen.get("context", ())),
        model=(choices["model"], frozen.get("model", ())),
        graph=(choices["graph"], frozen.get("graph", ())),
        degree=frozen.get("degree", ()),
        policy=frozen.get("policy", ()),
        tuned=frozen.get("tuned", ()),
    )


def family(model: str) -> str:
    """`resnet` of `resnet18`."""
    name = re.match(r"[A-Za-z]+", model)
    return name[0] if name else model


def labels(options: Iterable[Option]) -> dict[Option, str]:
    """A label for each option: its name, and those of its settings in which its namesakes differ.

    `rreg`, `rewired p=0.1`.
    """
    namesakes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    unique = list(dict.fromkeys(options))
    for name, settings in unique:
        namesakes[name].append(dict(settings))
    telling = {name: differing(variants) for name, variants in namesakes.items()}
    found = {}
    for name, settings in unique:
        words = text((k, v) for k, v in settings if k in telling[name])
        found[name, settings] = f"{name} {words}".strip()
    return found


def differing(variants: Sequence[Mapping[str, Any]]) -> set[str]:
    """The keys that not all mappings have, or that do not have the same value in all."""
    keys = set().union(*variants)
    absent = object()
    return {k for k in keys if len({variant.get(k, absent) for variant in variants}) > 1}


def text(settings: Iterable[tuple[str, Any]]) -> str:
    """Settings as on the command line: `p=0.1, shuffle=false`."""
    return ", ".join(f"{key}={_value(value)}" for key, value in settings)


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key; lists as text, so that everything can be a key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value
