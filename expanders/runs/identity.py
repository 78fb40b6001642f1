"""What defines a run, and its names: one answer to "is this the same run?".

A run is defined by its choices, and by the values that differ from the defaults of the functions
that take them. So a new setting renames no run as long as it has its default, and neither does a
function of this package that moves to another module. Runs that differ in anything that is computed
have different names; where and how they are computed, measured and logged does not count.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expanders.files import digest
from expanders.graphs.simple import is_dense
from expanders.runs.computed import THIN, with_computed
from expanders.runs.folders import settings_of
from expanders.runs.settings import (
    DIRECTIVES,
    GROUPS,
    OPTIONAL,
    Config,
    Init,
    Instantiate,
    Node,
    checked,
    completed,
    default_values,
    function_of,
)

# Where and how a run is computed and logged, but not what it computes.
_NOT_PART_OF_THE_RUN = {
    "channels_last",
    "checkpoint_minutes",
    "compile",
    "device",
    "dry_run",
    "execution",
    "hydra",
    "norm",
    "num_threads",
    "objective",
    "restart",
    "runs_dir",
    "wandb",
}
_NOT_COMPUTED = {"measures", "control"}  # what a report shows of a graph
_PLACES = {"root", "cache", "storage"}  # of images: they are the same wherever they lie
_LONGEST = 150  # characters of a label; file systems allow 255 for a name


@dataclass(frozen=True)
class Identity:
    """What defines a run, and the names that follow from it.

    Attributes:
        definition: the choices, and the values that are not defaults, in plain containers.
        words: the choices, and the options of graph and degree that are not defaults, in short:
            `("vgg16bn", "digits", "rewired", "p0.3", "d3")`.
    """

    definition: Node
    words: tuple[str, ...]

    @property
    def choices(self) -> dict[str, str]:
        """The chosen option of every group; a model or data set that has a name is called by it."""
        return named_choices(self.definition["choices"], self.definition)

    @property
    def name(self) -> str:
        """Of the run's folder, and of the run on W&B: the words, the seeds, and a digest.

        The seeds are `s0`, or `s0-graph7` where a stream has another.
        """
        own = [f"{name}{seed}" for name, seed in self.definition.get("seeds", {}).items()]
        seeds = "-".join([f"s{self.definition['seed']}", *own])
        return f"{self._label}-{seeds}-{_digest(self.definition)}"

    @property
    def cell(self) -> str:
        """The words and a digest of all but the seeds: equal for repetitions."""
        seedless = {k: v for k, v in self.definition.items() if k not in ("seed", "seeds")}
        return f"{self._label}-{_digest(seedless)}"

    @property
    def _label(self) -> str:
        return "-".join(re.sub(r"[^\w.+-]+", "_", word) for word in self.words)[:_LONGEST]


def described(
    settings: Node, choices: Mapping[str, str], instantiate: Instantiate
) -> tuple[Config, Identity, Node]:
    """The checked settings of a run, what defines it, and what its config.json says.

    Args:
        settings: all settings, resolved, in plain containers.
        choices: the chosen option of every group.
        instantiate: builds what a node describes.

    Raises:
        SettingError: with the first setting that does not fit, before anything is computed.
    """
    config = checked(settings)
    complete = with_computed(settings, choices, instantiate)
    if complete != settings:
        config = checked(complete)
    used = used_settings(complete, choices)
    identity = identity_of(used)
    return config, identity, used | {"definition": identity.definition}


def used_settings(settings: Node, choices: Mapping[str, str]) -> Node:
    """The choices, and all settings that are part of the run and that it uses.

    Args:
        settings: all settings, resolved, in plain containers.
        choices: the chosen option of every group.
    """
    left_out = _NOT_PART_OF_THE_RUN
    settings = completed(settings)
    if is_dense(function_of(settings["graph"], "graph")):  # nothing is drawn, nothing left out
        left_out = left_out | (set() if choices["graph"] == THIN else {"degree"})
        unused = {"seeds": {"graph": None}, "init": {"fan": "dense"}}
        settings = settings | {key: settings[key] | value for key, value in unused.items()}
    if settings.get("start_from") is not None:  # the run that it starts from, wherever it lies
        settings = settings | {"start_from": _digest_of(Path(settings["start_from"]).expanduser())}
    if settings.get("checkpoint") is not None:
        settings = settings | {"checkpoint": _in_one_spelling(settings["checkpoint"])}
    named = {name: choices[name] for name in GROUPS if name not in left_out}
    kept = {key: _plain(settings[key]) for key in sorted(settings) if key not in left_out}
    return {"choices": named} | kept


def named_choices(choices: Mapping[str, str], definition: Mapping[str, Any]) -> dict[str, str]:
    """The choices of a run; a model or data set that has a name is called by it.

    So every network of `model=torchvision` goes by its own name, and every folder of images.
    """
    names = {group: definition.get(group, {}).get("name") for group in ("model", "dataset")}
    return {**choices, **{k: name for k, name in names.items() if name and isinstance(name, str)}}


def identity_of(used: Node) -> Identity:
    """What defines the run of these settings, which are from `used_settings`."""
    choices = used["choices"]
    definition: Node = {"choices": choices}
    for name in choices:
        if name == "dataset":
            definition[name] = _dataset(used[name], choices[name])
        else:
            definition[name] = _changed(used[name], name, choices[name])
    definition["init"] = _differing(used["init"], default_values(Init))
    seeds = used["seeds"].items()
    definition["seeds"] = {k: v for k, v in seeds if v is not None and v != used["seed"]}
    # What optimizer and schedule use of the recipe stands there.
    rest = {k: v for k, v in used.items() if k not in definition and k != "recipe"}
    definition |= _differing(rest, default_values(Config))
    definition = {key: value for key, value in definition.items() if value != {}}
    return Identity(definition, _words(used, definition))


def _changed(node: Node, name: str, option: str, is_named: bool = False) -> Node:
    """The values of a node that differ from the defaults of its function.

    Places do not count for functions of this package, nor for a data set that has a name.

    A function of another package counts with its dotted name; one of this package is known by the
    option, and counts with its own name where that is another.
    """
    target: str = node["_target_"]
    is_ours = target.split(".")[0] == __name__.split(".")[0]
    function = target.rpartition(".")[2] if is_ours else target
    defaults = _plain(default_values(function_of(node, name))) | OPTIONAL.get(name, {})
    ignored = {*DIRECTIVES, *_NOT_COMPUTED} | (_PLACES if is_ours or is_named else set())
    values = {key: value for key, value in node.items() if key not in ignored}
    changed: Node = {} if function == option else {"_target_": function}
    for key, value in _differing(values, defaults).items():
        if isinstance(value, dict) and "_target_" in value:
            if inner := _changed(value, f"{name}.{key}", option):
                changed[key] = inner
        else:
            changed[key] = value
    return changed


def _dataset(node: Node, option: str) -> Node:
    """The values that count of a data set: those of its functions, its split, and its name.

    Other keys are there for interpolations. A file that has the key `name` is for images in a
    folder, and the name is by default that of the folder.
    """
    changed: Node = {
        "source": _changed(node["source"], "dataset.source", option, "name" in node),
        "transform": _changed(node["transform"], "dataset.transform", "Transform"),
    }
    split = {"val_fraction": node["val_fraction"]}
    changed |= _differing(split, OPTIONAL["dataset"])
    if "name" in node:
        folder = Path(node.get("root", "")).expanduser().absolute()
        changed["name"] = node["name"] or folder.name
    return {key: value for key, value in changed.items() if value != {}}


def _differing(values: Node, defaults: Node) -> Node:
    return {k: v for k, v in values.items() if k not in defaults or v != defaults[k]}


def _plain(value: Any) -> Any:
    """The same, with `3` for `3.0`, and lists for tuples: one run, however it was typed."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _words(used: Node, definition: Node) -> tuple[str, ...]:
    """The choices in short."""
    choices = named_choices(definition["choices"], definition)
    changed = {name: dict(definition.get(name, {})) for name in (*choices, "degree")}
    words = [choices["model"], choices["dataset"], choices["graph"], *_options(changed["graph"])]
    if choices.get("degree") == "constant":
        options = default_values(function_of(used["degree"], "degree")) | used["degree"]
        words.append(f"d{options['value']}")
        changed["degree"].pop("value", None)
    elif "degree" in choices:
        words.append(choices["degree"])
    return (*words, *_options(changed["degree"]))


def _options(changed: Node) -> list[str]:
    return [
        str(value) if isinstance(value, str) else f"{key}{value}"
        for key, value in sorted(changed.items())
        if key != "_target_" and not isinstance(value, dict)
    ]


def _in_one_spelling(path: str) -> str:
    """A path, relative to the current folder if it lies below; nothing needs to be there."""
    whole, here = os.path.abspath(Path(path).expanduser()), Path.cwd()
    return str(Path(whole).relative_to(here)) if Path(whole).is_relative_to(here) else whole


def _digest_of(folder: Path) -> str:
    """The digest of the run in a folder; that in its name, where the folder was removed.

    A run that started from it and has checkpoints of its own does not need it any more.
    """
    named = re.fullmatch(r".*-([0-9a-f]{8})", folder.name)
    if named and not folder.exists():
        return named[1]
    return _digest(settings_of(folder, "start_from")["definition"])


def _digest(content: Node) -> str:
    """Of the definition, short enough for a name."""
    return digest(content)[:8]
