"""The settings of a run, checked before anything is built.

Configuration files and command lines carry plain values; the functions that they reach say in
their signatures which names and types they take. Comparing the two before any work starts finds a
misspelt name or a word where a number belongs, also for functions that are added later.

Importing this module does not import PyTorch, which takes seconds.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from expanders.errors import SettingError

Node = dict[str, Any]
"""A part of the configuration in plain containers."""

_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}

GROUPS = ("model", "graph", "degree", "dataset", "optimizer", "schedule")


@dataclass(frozen=True)
class Config:
    """The top level of the configuration; its keys are explained in conf/config.yaml."""

    model: Node
    graph: Node
    degree: Node
    dataset: Node
    optimizer: Node
    schedule: Node
    recipe: Node
    seeds: Node
    init: Node
    wandb: Node
    seed: int
    epochs: int
    batch_size: int
    label_smoothing: float
    clip_grad_norm: float | None
    precision: str
    compile: str
    channels_last: bool
    execution: Literal["auto", "dense", "sparse"]
    device: str
    num_threads: int | None
    checkpoint: str | None
    checkpoint_minutes: float
    dry_run: bool
    restart: bool
    runs_dir: str

    def stream_seed(self, name: str) -> int:
        """The seed of one stream: its own, or else the common one."""
        seed = self.seed if self.seeds[name] is None else self.seeds[name]
        if not isinstance(seed, int):
            raise SettingError(f"seeds.{name}", seed, "must be an integer, or null for `seed`")
        return seed


def checked(plain: Node) -> Config:
    """The configuration, if every setting exists and has a value of the right type."""
    from expanders.data.images import check_fraction
    from expanders.runs.tracking import WandbSettings

    check_arguments(Config, plain, "")
    config = Config(**plain)
    check_arguments(WandbSettings, config.wandb, "wandb")
    check_fraction(config.dataset["val_fraction"])
    for name in config.seeds:
        config.stream_seed(name)
    for name in GROUPS:
        check_node(getattr(config, name), name)
    if config.num_threads is not None and config.num_threads < 1:
        raise SettingError("num_threads", config.num_threads, "must be 1 or more, or null")
    if config.optimizer.get("lr", 1) <= 0:
        raise SettingError("optimizer.lr", config.optimizer["lr"], "must be above 0")
    return config


def check_node(node: Node, name: str) -> None:
    """Check a group's settings against the function that they are for, nested groups first."""
    for key, value in node.items():
        if isinstance(value, dict):
            check_node(value, f"{name}.{key}")
    if "_target_" in node:
        own = {"_target_", "_partial_", "skip", "measures"}
        arguments = {key: value for key, value in node.items() if key not in own}
        try:
            target = resolve_name(node["_target_"])
        except (ImportError, AttributeError, ValueError) as error:
            remedy = f"no such function ({error}); give package.module.name"
            raise SettingError(f"{name}._target_", node["_target_"], remedy) from None
        check_arguments(target, arguments, name)


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], setting: str) -> None:
    """Check that `target` takes every one of `arguments` by name, with a value of that type.

    Args:
        target: a function or class.
        arguments: names and plain values; nested mappings are not looked into.
        setting: the name of their group on the command line, such as `degree`, or "".

    Raises:
        SettingError: with the first argument that does not fit.
    """
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some functions written in C have none
        return
    constructor = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
    hints = get_type_hints(constructor)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in arguments.items():
        full_name = f"{setting}.{name}" if setting else name
        if name not in parameters and not takes_any:
            known = ", ".join(parameters)
            raise SettingError(full_name, value, f"no such setting here; there are: {known}")
        if name in hints and not _fits(value, hints[name]):
            raise SettingError(full_name, value, f"must be {_describe(hints[name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; types that no plain value can have are not judged."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str)
    # No plain value is an instance of another class; what is no class is not judged.
    return not (isinstance(hint, type) and (value is None or isinstance(value, str | int | float)))


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        options = [_describe(option) for option in get_args(hint) if _is_plain(option)]
        return " or ".join(options)
    if get_origin(hint) is Literal:
        return " or ".join(str(option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple, Sequence):
        return "a list"
    return _NAMES.get(hint, str(hint))


def _is_plain(hint: Any) -> bool:
    return hint in _NAMES or get_origin(hint) in (list, tuple, Sequence, Literal)
