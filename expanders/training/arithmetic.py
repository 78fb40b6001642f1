"""How a run's numbers are computed: what `auto` chose, and all else that its bits depend on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

import torch
from torch import nn

from expanders.training.compilation import Compilation
from expanders.training.device import Precision
from expanders.wiring.layers import SparseLayer


@dataclass(frozen=True)
class Arithmetic:
    """How the steps of a run are computed; a run that continues stays with what `auto` chose.

    Attributes:
        device: its type, `cpu` or `cuda`.
        processes: that share each batch.
        threads: of each process on the CPU.
        precision: of the arithmetic; not `auto`.
        channels_last: whether images and dense kernels have the channels innermost.
        compilation: how the steps are compiled.
        execution: of each sparse layer, by its name.
        pytorch: its version.
    """

    device: str
    processes: int
    threads: int
    precision: Precision
    channels_last: bool
    compilation: Compilation
    execution: Mapping[str, Literal["dense", "sparse"]] = field(default_factory=dict)
    pytorch: str = str(torch.__version__)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, in plain containers."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> Self | None:
        """What `state_dict` was called on; None where an older checkpoint does not say it."""
        if state is None:
            return None
        known = {each.name: state[each.name] for each in fields(cls) if each.name in state}
        return cls(**known | {"compilation": Compilation(**state["compilation"])})

    def changes_since(self, before: Self) -> list[str]:
        """What differs from `before`, in words: `threads 2 -> 1`."""
        old, new = _flat(before), _flat(self)
        changes = [f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        layers = [name for name, how in self.execution.items() if before.execution.get(name) != how]
        count = f"{len(layers)} of {len(self.execution)} layers"
        return [*changes, f"execution of {count}"] if layers else changes


def executions(model: nn.Module) -> dict[str, Literal["dense", "sparse"]]:
    """How each sparse layer of a network computes, where its weights are now."""
    layers = model.named_modules()
    return {name: m.chosen_execution() for name, m in layers if isinstance(m, SparseLayer)}


def keep_executions(model: nn.Module, before: Mapping[str, Literal["dense", "sparse"]]) -> None:
    """Have sparse layers whose execution is `auto` compute as before, where that is possible."""
    for name, layer in model.named_modules():
        if isinstance(layer, SparseLayer) and layer.execution == "auto" and name in before:
            layer.execution = before[name]


def _flat(each: Arithmetic) -> dict[str, Any]:
    """All but the execution of layers."""
    flat = {name: value for name, value in vars(each).items() if name != "execution"}
    return flat | asdict(flat.pop("compilation"))
