"""Where a run belongs: its settings, cut into those that tables, columns, arms and cells share."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from expanders.errors import SettingError
from expanders.report.run_records import RunRecord
from expanders.runs import folders
from expanders.runs.computed import THIN

FlatSettings = tuple[tuple[str, Any], ...]  # flat keys and values, in order: usable as a key
Option = tuple[str, FlatSettings]  # the name of a choice in a group, and its settings
Default = tuple[str, str, Any]  # the name of a choice, one of its settings, and its default

# Seeds tell runs of a cell apart, and choices are taken by name.
_IGNORED = re.compile(r"(choices|seeds?)(\.|$)")
_SEEDS = re.compile(r"seeds?(\.|$)")
# What optimizer and schedule use of the recipe stands there; a definition repeats other settings.
_NO_SETTINGS = ("recipe.", "choices.", "definition.")


class Group(NamedTuple):
    """What a dense twin shares with the sparse networks beside it."""

    dataset: str
    family: str
    context: FlatSettings


class Place(NamedTuple):
    """Where one run belongs.

    Attributes:
        record: the run.
        group: data set, family of models, and all settings that are not named below.
        model, graph: the choice and its own settings.
        degree: the numbers of the degree policy, without the policy's prefix; empty if dense.
        policy: the policy's name and its other settings; empty if dense.
        tuned: the settings that were declared to be tuned for each arm.
    """

    record: RunRecord
    group: Group
    model: Option
    graph: Option
    degree: FlatSettings
    policy: FlatSettings
    tuned: FlatSettings


def places_of(records: Sequence[RunRecord], tuned: Collection[str] = ()) -> list[Place]:
    """The places of runs; the keys in `tuned` do not tell arms or tables apart.

    Raises:
        SettingError: for a key in `tuned` that no run has, and for a seed.
    """
    known = {k for r in records for k, _ in _flat(r.config) if not k.startswith(_NO_SETTINGS)}
    for key in tuned:
        if _SEEDS.match(key):
            raise SettingError(
                "tuned", key, "seeds are never tuned: they tell runs of a cell apart"
            )
        if key not in known:
            raise SettingError("tuned", key, "no run has this setting, as in optimizer.lr")
    settings = _completed(records)
    return [_place(record, own, tuned) for record, own in zip(records, settings, strict=True)]


def _completed(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The definition of each run by dotted key, with the defaults where other runs have others.

    A definition leaves out what is a default. Where another run with the same choice differs in
    such a key, its value is taken from the whole configuration of any run that has the default.
    """
    definitions = [_settings(record, record.definition) for record in records]
    configs = [_settings(record, record.config) for record in records]
    defaults: dict[tuple[str, str], Any] = {}
    for record, definition, config in zip(records, definitions, configs, strict=True):
        for key in config.keys() - definition.keys():
            defaults[_choice(record, key), key] = config[key]
    varied: dict[str, set[str]] = defaultdict(set)
    for record, definition in zip(records, definitions, strict=True):
        for key in definition:
            varied[_choice(record, key)].add(key)
    completed = []
    for record, definition in zip(records, definitions, strict=True):
        own = {
            key: defaults[choice, key]
            for choice, keys in varied.items()
            for key in keys
            if choice == _choice(record, key) and (choice, key) in defaults
        }
        completed.append(own | definition)
    return completed


def _settings(record: RunRecord, nested: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, without what differs between runs of a cell.

    That is the width that follows from a thin network's degree, and which run another goes on with.
    """
    flat = dict(_flat(nested))
    if flat.get("start_from") is not None:
        flat["start_from"] = True
    if record.choices["graph"] == THIN:
        flat.pop("model.width", None)
    return flat


def _choice(record: RunRecord, key: str) -> str:
    """The option that a key belongs to, whose default another option need not share."""
    group = key.partition(".")[0]
    return f"{group}={record.choices.get(group, '')}"


def _place(record: RunRecord, settings: Mapping[str, Any], tuned: Collection[str]) -> Place:
    choices = record.choices
    numbers = _numbers(record.config.get("degree", {}))
    cut: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in settings.items():
        group, _, rest = key.partition(".")
        if _IGNORED.match(key) or (rest == "name" and choices.get(group) == value):
            continue
        if key in tuned:
            cut["tuned"][key] = value
        elif key.startswith("init."):  # of sparse layers; the dense twin is the same for all
            if record.is_wired:
                cut["graph"][key] = value
        elif group in ("model", "graph"):
            cut[group][rest] = value
        elif group == "degree" and rest not in numbers:
            cut["policy"][key] = value
        elif group != "degree":
            cut["context"][key] = value
    for name in ("optimizer", "schedule"):
        if name in choices:
            cut["context"][name] = choices[name]
    if "degree" in choices:
        cut["policy"]["degree"] = choices["degree"]
        cut["degree"] = numbers
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


def _numbers(degree: Mapping[str, Any]) -> dict[str, Any]:
    """The number of a degree policy: its value, or whatever else it is given in numbers."""
    known = {k: v for k, v in degree.items() if _is_number(v)}
    return {"value": known["value"]} if "value" in known else known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def family(model: str) -> str:
    """`resnet` of `resnet18`."""
    name = re.match(r"[A-Za-z]+", model)
    return name[0] if name else model


def graph_defaults(records: Iterable[RunRecord]) -> set[Default]:
    """The settings of graphs, and of the weights on them, that runs have left at their defaults."""
    found = set()
    for record in records:
        definition = _settings(record, record.definition)
        for key, value in _settings(record, record.config).items():
            if key.startswith(("graph.", "init.")) and key not in definition:
                found.add((record.choices["graph"], key.removeprefix("graph."), value))
    return found


def labels(options: Iterable[Option], defaults: Collection[Default] = ()) -> dict[Option, str]:
    """A label for each option: its name, and those of its settings in which its namesakes differ.

    `rreg`, `rewired p=0.1`. Where they differ in several settings, `defaults` are left out.
    """
    namesakes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    unique = list(dict.fromkeys(options))
    for name, settings in unique:
        namesakes[name].append(dict(settings))
    telling = {name: differing(variants) for name, variants in namesakes.items()}
    found = {}
    for name, settings in unique:
        hidden = defaults if len(telling[name]) > 1 else ()
        told = [(k, v) for k, v in settings if k in telling[name] and (name, k, v) not in hidden]
        words = text(told)
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


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by dotted key; lists as text, so that everything can be a key."""
    for key, value in folders.by_dotted_key(settings).items():
        yield key, json.dumps(value) if isinstance(value, list) else value
