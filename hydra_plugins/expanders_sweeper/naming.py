"""From Hydra's configurations to plain settings, objects, and the name `${run_name:}` of a run."""

import re
from collections.abc import Iterable
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from expanders.errors import SettingError
from expanders.runs.identity import described
from expanders.runs.settings import Node


def instantiate(node: Node) -> Any:
    """From a node in plain containers to what its function returns.

    Raises:
        SettingError: if the function does so, which Hydra would wrap.
        InstantiationException: if the function fails otherwise, or Hydra refuses to call it.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, SettingError):
            raise error.__cause__ from None
        raise


def resolved(cfg: DictConfig) -> Node:
    """All settings but Hydra's own, as plain containers, with interpolations resolved."""
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key != "hydra"
    }


def with_recipe(overrides: Iterable[str]) -> list[str]:
    """The overrides of a run, and the recipe of the network that `model.name` names, if one is.

    `model.name=mobilenet_v2` then has the recipe mobilenet_v2_cifar10 where there is one. Without
    this, all networks of `model=torchvision` would share one: Hydra chooses files by the names of
    other files, not by values in them.
    """
    overrides = list(overrides)
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    name = overrides[keys.index("model.name")].partition("=")[2] if "model.name" in keys else ""
    if "recipe" in keys or not name.isidentifier():  # several names: of a sweep, whose runs come
        return overrides
    overrides.insert(keys.index("model.name"), f"recipe={name}_${{dataset}}")
    return overrides


def degree_as_value(argument: str) -> str:
    """`degree=15` as `degree.value=15`: Hydra takes no number for the name of a group's option.

    Whatever has a number in it is meant, such as `3,15`, `'3'` and `range(3,9,3)`.
    """
    key, _, value = argument.partition("=")
    numbers = [word for word in re.split(r"[\s,()\[\]'\"]+", value) if _is_number(word)]
    return f"degree.value={value}" if key == "degree" and numbers else argument


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def run_name(*, _root_: DictConfig) -> str:
    """The name of the folder of the run that a configuration describes, which is checked first."""
    _, identity, _ = described(resolved(_root_), _root_.hydra.runtime.choices, instantiate)
    return identity.name


def register_resolver() -> None:
    """Make `${run_name:}` known to configuration files."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
