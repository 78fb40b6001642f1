"""The settings of a run, checked before anything is built.

Configuration files and command lines carry plain values; the functions that they reach say in
their signatures which names and types they take. Comparing the two before any work starts finds a
misspelt name or a word where a number belongs, also for functions that are added later.

Importing this module does not import PyTorch, which takes seconds.
"""

import inspect
import json
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pkgutil import resolve_name
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from expanders.errors import SettingError
from expanders.seeds import Seed, seed_of
from expanders.training import metrics

Node = dict[str, Any]
"""A part of the configuration in plain containers."""

Instantiate = Callable[[Node], Any]
"""From a node, whose `_target_` names a function, to what that returns."""

_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}

_LARGEST_INT = 2**63 - 1
_OF_VALIDATION = (metrics.VAL_ACCURACY, metrics.VAL_LOSS)
OBJECTIVES = (*_OF_VALIDATION, metrics.SECONDS, metrics.LIVE_PARAMETERS)
_MOST_THREADS = 1024  # of many more, the process crashes
_LARGEST_FLOAT = 3.4028234e38  # of float32

GROUPS = ("model", "graph", "degree", "dataset", "optimizer", "schedule")


OPTIONAL: dict[str, Node] = {  # what a group's file may leave out, besides its function's options
    "model": {"skip": None},
    "graph": {"measures": "default", "granularity": "kernel", "control": False},
    "dataset": {"val_fraction": 0.1, "transform": {"_target_": "expanders.data.Transform"}},
}
_GIVEN = {  # what the program passes itself to the function of a group
    "model": ("num_classes",),
    "graph": ("num_left", "num_right", "num_edges", "rng"),
    "degree": ("network", "graph"),
    "optimizer": ("params",),
    "schedule": ("optimizer",),
}
DIRECTIVES = ("_target_", "_partial_", "_convert_", "_recursive_")  # of a node, to Hydra


@dataclass(frozen=True)
class Seeds:
    """The seeds of single random streams; None stands for the common seed."""

    graph: int | None = None
    init: int | None = None
    data: int | None = None


@dataclass(frozen=True)
class Init:
    """How weights begin; see `expanders.wiring.wire`."""

    fan: str = "dense"
    redraw: bool = False


@dataclass(frozen=True)
class Config:
    """The top level of the configuration; its keys are explained in conf/config.yaml."""

    model: Node
    graph: Node
    degree: Node
    dataset: Node
    optimizer: Node
    schedule: Node
    seed: int
    epochs: int
    batch_size: int
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    precision: str = "auto"
    compile: str = "auto"
    norm: str = "auto"
    channels_last: bool = False
    execution: Any = "auto"  # its options stand where PyTorch is needed, as those of `init.fan`
    device: str = "auto"
    num_threads: int | None = None
    checkpoint: str | None = None
    start_from: str | None = None
    checkpoint_minutes: float = 10
    dry_run: bool = False
    restart: bool = False
    runs_dir: str = "runs"
    objective: str | None = None
    recipe: Node = field(default_factory=dict)
    seeds: Node = field(default_factory=dict)
    init: Node = field(default_factory=dict)
    wandb: Node = field(default_factory=dict)

    def stream_seed(self, name: Seed) -> int:
        """One of the run's seeds: its own, or else the common one."""
        return int(seed_of(vars(self), name))


def completed(settings: Node) -> Node:
    """The settings, with what may be left out."""
    defaults = OPTIONAL | {"init": vars(Init())}
    return {
        key: defaults.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in settings.items()
    }


def checked(settings: Node) -> Config:
    """The configuration, if every setting exists and has a value of the right type.

    Raises:
        SettingError: with the first setting that is missing, unknown or of another type.
    """
    from expanders.data.images import check_fraction
    from expanders.runs.tracking import WandbSettings
    from expanders.training.settings import Settings
    from expanders.wiring.wire import check_options

    check_arguments(Config, settings, "")
    for name, parameter in inspect.signature(Config).parameters.items():
        if parameter.default is parameter.empty and name not in settings:
            raise SettingError(name, "", "is missing; the run needs it")
    config = Config(**completed(settings))
    for name, target in {"wandb": WandbSettings, "seeds": Seeds, "init": Init}.items():
        check_arguments(target, getattr(config, name), name)
    for name in GROUPS:
        check_node(getattr(config, name), name)
    Settings(**{each.name: getattr(config, each.name) for each in fields(Settings)})
    check_options(config.init["fan"], config.graph["measures"], config.execution)
    check_fraction(config.dataset["val_fraction"])
    check_ranges(config)
    return config


def check_ranges(config: Config) -> None:
    """Check what no function checks, or only after long work.

    Raises:
        SettingError: with the first setting that is out of its range.
    """
    skip = config.model["skip"]
    if skip is not None and not isinstance(skip, list):
        raise SettingError("model.skip", skip, f"must be a list of layers, as model.skip=[{skip}]")
    if not isinstance(config.graph["control"], bool):
        raise SettingError("graph.control", config.graph["control"], "must be true or false")
    seeds = {"seed": config.seed} | {f"seeds.{name}": seed for name, seed in config.seeds.items()}
    for name, seed in seeds.items():
        if seed is not None and seed < 0:
            raise SettingError(name, seed, "must be 0 or more")
    if config.num_threads is not None and not 1 <= config.num_threads <= _MOST_THREADS:
        remedy = f"must be 1 or more and at most {_MOST_THREADS}, or null"
        raise SettingError("num_threads", config.num_threads, remedy)
    if config.checkpoint_minutes < 0:
        raise SettingError("checkpoint_minutes", config.checkpoint_minutes, "must be 0 or more")
    rates = {name: config.optimizer.get(name) for name in ("lr", "momentum")}
    for name, value in rates.items():
        if value is not None and not _fits(value, float):  # functions may say nothing of types
            raise SettingError(f"optimizer.{name}", value, "must be a number")
    lr, momentum = rates["lr"], rates["momentum"]
    if lr is not None and lr <= 0:
        raise SettingError("optimizer.lr", lr, "must be above 0")
    if momentum is not None and not 0 <= momentum < 1:
        raise SettingError("optimizer.momentum", momentum, "must be at least 0 and below 1")
    if config.objective not in (None, *OBJECTIVES):
        remedy = f"must be one of {', '.join(OBJECTIVES)}; test images are for the end of a study"
        raise SettingError("objective", config.objective, remedy)
    if config.objective in _OF_VALIDATION and config.dataset["val_fraction"] == 0:
        remedy = "needs validation images; choose dataset.val_fraction above 0"
        raise SettingError("objective", config.objective, remedy)
    for name in ("runs_dir", "start_from", "checkpoint"):
        if getattr(config, name) == "":
            raise SettingError(name, "", "must be a path")
    if config.wandb.get("project") == "":
        raise SettingError("wandb.project", "", "must be the name of a project")


def check_node(node: Node, name: str) -> None:
    """Check a group's settings against the functions that they are for, nested groups first."""
    for key, value in node.items():
        if isinstance(value, dict):
            check_node(value, f"{name}.{key}")
    if name != "dataset":
        own = {*DIRECTIVES, *OPTIONAL.get(name, ())}
        arguments = {key: value for key, value in node.items() if key not in own}
        check_arguments(function_of(node, name), arguments, name, given=_GIVEN.get(name, ()))
    elif "source" not in node:
        raise SettingError("dataset.source", "", "is missing; it names the function that reads it")


def function_of(node: Node, name: str) -> Callable[..., Any]:
    """The function that a node is for.

    Raises:
        SettingError: if it names none.
    """
    target = node.get("_target_")
    remedy = "must be the dotted name of a function, package.module.name"
    if not isinstance(target, str):
        raise SettingError(f"{name}._target_", target, remedy)
    try:
        function = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"{name}._target_", target, f"{remedy} ({error})") from None
    if not callable(function):
        raise SettingError(f"{name}._target_", target, remedy)
    return function  # type: ignore[no-any-return]


def without(node: Node, *keys: str) -> Node:
    """A group's settings without those that are not for its function."""
    return {name: value for name, value in node.items() if name not in keys}


def default_values(target: Callable[..., Any]) -> Node:
    """The values that the parameters of a function have where nothing else is given."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some functions written in C have none
        return {}
    return {n: p.default for n, p in parameters.items() if p.default is not p.empty}


def check_arguments(
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    setting: str,
    given: Collection[str] = (),
) -> None:
    """Check that `target` takes every one of `arguments` by name, with a value of that type.

    Args:
        target: a function or class.
        arguments: names and plain values; nested mappings are not looked into.
        setting: the name of their group on the command line, such as `degree`, or "".
        given: parameters that are not for users.

    Raises:
        SettingError: with the first argument that does not fit.
    """
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some functions written in C have none
        return
    own = target.func if isinstance(target, partial) else target
    constructor = inspect.getattr_static(own, "__init__") if isinstance(own, type) else own
    try:
        hints = get_type_hints(constructor)
    except NameError:  # names that are imported for type checkers only
        hints = {}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in arguments.items():
        full_name = f"{setting}.{name}" if setting else name
        if name in given or (name not in parameters and not takes_any):
            known = ", ".join(each for each in parameters if each not in given)
            remedy = f"no such setting here; there are: {known or 'none'}"
            raise SettingError(full_name, _shown(value), remedy)
        if name in hints and not _fits(value, hints[name]):
            remedy = f"must be {_describe(hints[name])}"
            if isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT:
                remedy += " that float32 can hold"
            elif isinstance(value, int) and abs(value) > _LARGEST_INT:
                remedy += " of at most 64 bits"
            raise SettingError(full_name, _shown(value), remedy)


def _shown(value: Any) -> Any:
    """As on the command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; types that no plain value can have are not judged."""
    origin = get_origin(hint)
    if hint in (Any, object):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if hint in (int, float):
        kinds = int if hint is int else int | float
        largest = _LARGEST_INT if isinstance(value, int) else _LARGEST_FLOAT
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and -largest <= value <= largest  # which nan is not
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if not isinstance(hint, type) or not (value is None or isinstance(value, str | int | float)):
        return True
    try:
        return isinstance(value, hint)  # as 3 is a numbers.Real, but no text is a pathlib.Path
    except TypeError:  # a protocol, which cannot be asked
        return True


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        options = [_describe(option) for option in get_args(hint) if _is_plain(option)]
        return " or ".join(options)
    if get_origin(hint) is Literal:
        return " or ".join(str(option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple, Sequence):
        return "a list"
    if get_origin(hint) in (dict, Mapping):
        return "a group of settings"
    return _NAMES.get(hint, str(hint))


def _is_plain(hint: Any) -> bool:
    return hint in _NAMES or get_origin(hint) in (list, tuple, Sequence, Literal)
