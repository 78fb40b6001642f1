"""The name of a run's folder: a pure function of the settings that define the run.

So the same run has the same folder whether a command, a sweep or a requeued job starts it, and two
runs that differ in anything have two folders.
"""

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping
from pkgutil import resolve_name
from typing import Any

from expanders.runs.settings import GROUPS, Node

# Where and how a run is computed and logged, but not what it computes.
_NOT_PART_OF_THE_RUN = {
    *("hydra", "wandb", "runs_dir", "restart", "dry_run"),
    *("device", "num_threads", "checkpoint_minutes", "execution", "compile", "channels_last"),
}


def definition_of(settings: Node, choices: Mapping[str, str]) -> Node:
    """The settings that decide what a run computes."""
    ignored = _NOT_PART_OF_THE_RUN
    if choices["graph"] == "dense":  # it draws no graph, and has all edges
        ignored = ignored | {"degree"}
        unused = {"seeds": {"graph": None}, "init": {"fan": "dense"}}
        settings = settings | {key: settings[key] | value for key, value in unused.items()}
    named = {name: choices[name] for name in GROUPS if name not in ignored}
    kept = {key: _plain(settings[key]) for key in sorted(settings) if key not in ignored}
    return {"choices": named} | kept


def _plain(value: Any) -> Any:
    """The same, with `3` for `3.0`: one run, however its numbers were typed."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label_of(definition: Node) -> str:
    """The choices in a few words: `vgg16bn-cifar10-rewired-p0.3-d3`.

    Options of the graph model and of the degree policy are named where they are not the default.
    """
    choices = definition["choices"]
    words = [choices["model"], choices["dataset"], choices["graph"]]
    words += _unusual(definition["graph"])
    if "degree" in choices:
        constant = choices["degree"] == "constant"
        words.append(f"d{definition['degree']['value']}" if constant else choices["degree"])
        words += _unusual(definition["degree"], but={"value"} if constant else set())
    return "-".join(words)


def _unusual(node: Node, but: Collection[str] = ()) -> list[str]:
    """The options of a group that differ from the defaults of its function."""
    parameters = inspect.signature(resolve_name(node["_target_"])).parameters
    options = {key: value for key, value in node.items() if key in parameters and key not in but}
    return [
        str(value) if isinstance(value, str) else f"{key}{value}"
        for key, value in options.items()
        if value != parameters[key].default
    ]


def _seeds(definition: Node) -> str:
    """`s0`, or `s0-graph7` where a stream has a seed of its own."""
    own = [f"{name}{seed}" for name, seed in definition["seeds"].items() if seed is not None]
    return "-".join([f"s{definition['seed']}", *own])


def cell_of(definition: Node) -> str:
    """The label and a digest of all that defines the run but its seeds: equal for repetitions."""
    settings = {key: value for key, value in definition.items() if key not in ("seed", "seeds")}
    return f"{label_of(definition)}-{_digest(settings)}"


def run_name(definition: Node) -> str:
    """The label, the seeds, and a digest of all that defines the run."""
    return f"{label_of(definition)}-{_seeds(definition)}-{_digest(definition)}"


def _digest(settings: Node) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
