"""The run's name for configuration files: `${run_name:}`."""

from functools import partial

import hydra
from omegaconf import DictConfig, OmegaConf

from expanders.runs.computed import with_computed
from expanders.runs.identity import identity_of, used_settings
from expanders.runs.settings import Node, checked

instantiate = partial(hydra.utils.instantiate, _convert_="all")
"""From a node in plain containers to what its function returns."""


def resolved(cfg: DictConfig) -> Node:
    """All settings but Hydra's own, as plain containers, with interpolations resolved."""
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(cfg[key])
        else cfg[key]
        for key in cfg
        if key != "hydra"
    }


def run_name(*, _root_: DictConfig) -> str:
    """The name of the folder of the run that a configuration describes, which is checked first."""
    choices = _root_.hydra.runtime.choices
    settings = resolved(_root_)
    checked(settings)
    return identity_of(used_settings(with_computed(settings, choices, instantiate), choices)).name


def register_resolver() -> None:
    """Make `${run_name:}` known to configuration files."""
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
