"""Where a run belongs: its settings, cut into the parts that tables are made of."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expanders.report.read import DENSE, Run

Settings = tuple[tuple[str, Any], ...]  # flat keys and values, in order: usable as a key
Option = tuple[str, Settings]  # the name of a choice in a group, and its settings

# Streams hold the seeds; what a recipe chooses stands in optimizer and schedule; choices are taken
# by name; and what is measured of a graph does not change it.
_NO_PART = re.compile(r"(choices|seeds?|recipe|graph\.measures)(\.|$)|.*\b_(partial|target)_$")
_ROOT = re.compile(r"dataset\.(source\.)?root$")


class Group(NamedTuple):
    """What a dense twin shares with the sparse networks beside it."""

    dataset: str
    family: str
    context: Settings


class Place(NamedTuple):
    """Where one run belongs.

    Attributes:
        run: the run.
        group: data set, family of models, and all settings that are not named below.
        model, graph: the choice and its own settings.
        degree: the numbers of the degree policy, without the policy's prefix; empty if dense.
        policy: the policy's name and its settings that are not numbers; empty if dense.
    """

    run: Run
    group: Group
    model: Option
    graph: Option
    degree: Settings
    policy: Settings


def place(run: Run) -> Place:
    """The place of a run, from its settings."""
    choices = run.choices
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in _flat(run.config):
        if _NO_PART.match(key):
            continue
        # Where a data set lies does not matter, unless the folder is all that names it.
        if _ROOT.match(key) and choices["dataset"] != "image_folder":
            continue
        part, _, rest = key.partition(".")
        if key == "init.fan":  # says how sparse layers start; the dense twin is the same for all
            if choices["graph"] != DENSE:
                parts["graph"][key] = value
        elif part in ("model", "graph"):
            parts[part][rest] = value
        elif part == "degree":
            kind = "degree" if isinstance(value, int | float) else "policy"
            parts[kind][rest if kind == "degree" else key] = value
        else:
            parts["context"][key] = value
    for name in ("optimizer", "schedule"):
        if name in choices:
            parts["context"][name] = choices[name]
    if parts["degree"] or parts["policy"]:
        parts["policy"]["degree"] = choices.get("degree", "constant")
    frozen = {name: tuple(sorted(part.items())) for name, part in parts.items()}
    return Place(
        run=run,
        group=Group(choices["dataset"], family(choices["model"]), frozen.get("context", ())),
        model=(choices["model"], frozen.get("model", ())),
        graph=(choices["graph"], frozen.get("graph", ())),
        degree=frozen.get("degree", ()),
        policy=frozen.get("policy", ()),
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
    return {
        (
            name,
            settings,
        ): f"{name} {text((k, v) for k, v in settings if k in telling[name])}".strip()
        for name, settings in unique
    }


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
