"""Networks in files: live weights, edges, and what is needed to build the network again.

A checkpoint is a dictionary that `torch.load(..., weights_only=True)` reads: no code in it runs.

    format          version of this layout, 2; version 1 had no origin and no wiring
    origin          {"run": digest of its definition, "epoch": 3, "steps": 0}; only of a run's
    model           {"target": "expanders.models.vgg16bn", "arguments": {"num_classes": 10}}
    layers          names of the sparse layers
    wiring          how their edges were chosen, see `expanders.wiring.draw.Wiring`; of a run's
    granularity     what their edges carry: "kernel" or "weight"
    state           the network's state_dict: live weights, edges, biases, norms
    training        optimizer, schedule, history, how it was computed, and what was known when the
                    run began; only in checkpoints to continue from
"""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from expanders import models
from expanders.errors import DamagedError, SettingError
from expanders.files import write_atomically
from expanders.wiring.draw import Wiring
from expanders.wiring.layers import SparseLayer
from expanders.wiring.wire import granularity_of, swap

_FORMAT = 2
_FORMATS = (1, _FORMAT)


@dataclass(frozen=True)
class Blueprint:
    """The function that builds the dense network, by its dotted name, and its arguments."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the network is called: its name, if it has one, or else that of its function."""
        name = self.arguments.get("name")
        return name if name and isinstance(name, str) else self.target.rpartition(".")[2]

    def build(self) -> nn.Module:
        """The dense network, initialized by its own function."""
        model = resolve_name(self.target)(**self.arguments)
        if not isinstance(model, nn.Module):
            raise SettingError("model", self.target, "must return a torch.nn.Module")
        return model


@dataclass(frozen=True)
class Origin:
    """What a checkpoint of a run is of.

    Attributes:
        run: digest of the run's definition.
        epoch: number of epochs done.
        steps: done of the epoch after these.
    """

    run: str
    epoch: int
    steps: int = 0


def save(
    path: str | Path,
    model: nn.Module,
    blueprint: Blueprint,
    training: Mapping[str, Any] | None = None,
    *,
    origin: Origin | None = None,
    wiring: Wiring | None = None,
) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: of the file; its folder must exist.
        model: the network, dense or sparse.
        blueprint: how to build its dense twin.
        training: what is needed besides to continue training.
        origin: the run and the epoch, where there is a run.
        wiring: how the edges were chosen; they themselves are the model's.

    Raises:
        OSError: if the file cannot be written; an older one at `path` then stays as it was.
    """
    content = {
        "format": _FORMAT,
        "model": {"target": blueprint.target, "arguments": dict(blueprint.arguments)},
        "layers": [name for name, m in model.named_modules() if isinstance(m, SparseLayer)],
        "granularity": granularity_of(model),
        "state": model.state_dict(),
    }
    if origin is not None:
        content["origin"] = asdict(origin)
    if wiring is not None:
        content["wiring"] = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(wiring).items()
            if name != "edges"
        }
    if training is not None:
        content["training"] = dict(training)
    write(Path(path).expanduser(), content)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the content of a checkpoint, atomically."""
    write_atomically(path, lambda file: torch.save(dict(content), file))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The network in a checkpoint, on the CPU and in evaluation mode.

    Args:
        path: of the checkpoint.
        model: a network to fill, in place, after its dense layers were wired as the checkpoint
            says; layers that are sparse already must have its edges. Needed only for networks that
            are not from `expanders.models`: a checkpoint cannot make this function call code from
            elsewhere.

    Raises:
        SettingError: if the file is missing or no checkpoint, or if it does not fit the network;
            the message names the first difference.
    """
    content = read(path)
    target = content["model"]["target"]
    if model is None:
        if not is_ours(target):
            raise SettingError("checkpoint", path, f"was built by {target}: pass model= to load it")
        model = Blueprint(target, content["model"]["arguments"]).build()
    state = content["state"]
    try:
        modules = model.named_modules(remove_duplicate=False)
        sparse = {name for name, module in modules if isinstance(module, SparseLayer)}
        names = [name for name in content["layers"] if name not in sparse]
        edges = {name: state[f"{name}.edges"] for name in names}
        granularity = content.get("granularity", "kernel")  # older files do not say so
        swap(model, Wiring(edges, "checkpoint", granularity=granularity))
    except (AttributeError, KeyError, SettingError) as error:
        raise SettingError("checkpoint", path, f"does not fit the model: {error}") from None
    load_state(model, state, path)
    return model.eval()


def origin_of(content: Mapping[str, Any]) -> Origin | None:
    """What a checkpoint says it is of; None where it says nothing."""
    return Origin(**content["origin"]) if "origin" in content else None


def wiring_of(content: Mapping[str, Any]) -> Wiring:
    """The wiring of the network in a checkpoint of a run.

    What another version of this package says of it and this one does not know is left out.
    """
    edges = {name: content["state"][f"{name}.edges"] for name in content["layers"]}
    known = {each.name for each in fields(Wiring)} - {"edges"}
    said = {name: value for name, value in content["wiring"].items() if name in known}
    return Wiring(edges, **{"method": "unknown", **said})


def is_ours(target: str) -> bool:
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
    check_state(model, state, path)
    model.load_state_dict(state)  # as it is: it knows the versions of its modules


def check_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise what `load_state` would."""
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


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        DamagedError: if it is not what was written, or no checkpoint of this package.
        SettingError: if the file is missing, or cannot be read just now.
    """
    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise SettingError("checkpoint", path, "no such file; give the path of a .pt file")
        file = BytesIO(path.read_bytes())
        content = _read(file)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "not enough memory"
        remedy = f"cannot be read ({reason}); nothing was changed, and the same command tries again"
        raise SettingError("checkpoint", path, remedy) from None
    if content is None:
        remedy = "is damaged, or not a checkpoint of expanders; give a best.pt or last.pt of a run"
        raise DamagedError("checkpoint", path, remedy)
    return content


def _read(file: BytesIO) -> dict[str, Any] | None:
    """The content of a checkpoint, or None if it is damaged or foreign."""
    try:
        with zipfile.ZipFile(file) as archive:
            # The framework writes checksums, but does not read them.
            is_whole = archive.testzip() is None
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True) if is_whole else None
    except MemoryError:
        raise
    except Exception as error:  # whatever a foreign file makes the readers raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the process has no file left to open, or alike
        if "memory" in str(error):  # the framework has no exception of its own for it
            raise MemoryError from error
        return None
    return content if isinstance(content, dict) and content.get("format") in _FORMATS else None
