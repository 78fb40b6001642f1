"""The settings of a run, checked before anything is built.

Importing this module does not import PyTorch, which takes seconds.
"""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from expanders.errors import SettingError
from expanders.runs.checks import check_arguments

Node = dict[str, Any]
"""A part of the configuration in plain containers."""

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
        check_arguments(resolve_name(node["_target_"]), arguments, name)
