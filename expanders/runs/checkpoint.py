"""Networks in files: live weights, edges, and what is needed to build the network again.

A checkpoint is a dictionary that `torch.load(..., weights_only=True)` reads: no code in it runs.

    format          version of this layout
    model           {"target": "expanders.models.vgg16bn", "arguments": {"num_classes": 10}}
    layers          names of the sparse layers
    state           the network's state_dict: live weights, edges, biases, norms
    training        optimizer, schedule and history; only in checkpoints to continue from
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from expanders import models
from expanders.errors import SettingError
from expanders.files import write_atomically
from expanders.wiring.draw import Wiring
from expanders.wiring.layers import SparseLayer
from expanders.wiring.wire import swap

_FORMAT = 1


@dataclass(frozen=True)
class Blueprint:
    """The function that builds the dense network, by its dotted name, and its arguments."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The dense network, initialized by its own function."""
        model = resolve_name(self.target)(**self.arguments)
        if not isinstance(model, nn.Module):
            raise SettingError("model", self.target, "must return a torch.nn.Module")
        return model


def save(
    path: str | Path,
    model: nn.Module,
    blueprint: Blueprint,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: of the file; its folder must exist.
        model: the network, dense or sparse.
        blueprint: how to build its dense twin.
        training: what is needed besides to continue training.

    Raises:
        OSError: if the file cannot be written; an older one at `path` then stays as it was.
    """
    content = {
        "format": _FORMAT,
        "model": {"target": blueprint.target, "arguments": dict(blueprint.arguments)},
        "layers": [name for name, m in model.named_modules() if isinstance(m, SparseLayer)],
        "state": model.state_dict(),
    }
    if training is not None:
        content["training"] = dict(training)
    write_atomically(Path(path), lambda file: torch.save(content, file))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network in a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: of the checkpoint.
        model: a dense network to wire as the checkpoint says and to fill, in place. Needed only
            for networks that are not from `expanders.models`: a checkpoint cannot make this
            function call code from elsewhere.

    Raises:
        SettingError: if the file is missing or no checkpoint, or if it does not fit the network;
            the message names the first difference.
    """
    content = read(path)
    target = content["model"]["target"]
    if model is None:
        if not _is_ours(target):
            raise SettingError("checkpoint", path, f"was built by {target}: pass model= to load it")
        model = Blueprint(target, content["model"]["arguments"]).build()
    state = content["state"]
    try:
        edges = {name: state[f"{name}.edges"] for name in content["layers"]}
        swap(model, Wiring(edges, "checkpoint"))
    except (AttributeError, KeyError, SettingError) as error:
        raise SettingError("checkpoint", path, f"does not fit the model: {error}") from None
    load_state(model, state, path)
    return model.eval()


def _is_ours(target: str) -> bool:
    """Whether a dotted name is that of a function defined in `expanders.models`, and no detour."""
    name = target.removeprefix("expanders.models.")
    return (
        name.isidentifier() and getattr(vars(models).get(name), "__module__", "") == models.__name__
    )


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill `model` with `state`, if it fits in every name, shape and graph.

    Raises:
        SettingError: with the first difference; `model` is then unchanged.
    """
    own = model.state_dict()
    remedy = "build the model with the options that the checkpoint was trained with"
    for name in [*own, *state]:
        difference = None
        if name not in state:
            difference = f"has no {name}"
        elif name not in own:
            difference = f"has {name}, which the model lacks"
        elif own[name].shape != state[name].shape:
            shapes = f"{tuple(state[name].shape)}, in the model {tuple(own[name].shape)}"
            difference = f"{name} has shape {shapes}"
        elif name.endswith("edges") and not torch.equal(own[name].cpu(), state[name].cpu()):
            difference = f"{name} is another graph (another seed or graph model)"
        if difference is not None:
            raise SettingError("checkpoint", path, f"does not fit: {difference}; {remedy}")
    model.load_state_dict(dict(state))


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        SettingError: if the file is missing or is no checkpoint of this package.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SettingError("checkpoint", path, "no such file; give the path of a .pt file")
    remedy = "is damaged, or not a checkpoint of expanders; give a best.pt or last.pt of a run"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # the framework writes checksums, but does not read them
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the readers raise
        raise SettingError("checkpoint", path, remedy) from error
    if damaged or not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise SettingError("checkpoint", path, remedy)
    return content
