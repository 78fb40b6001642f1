"""The layers of a model: which can be wired, and why others stay as they are."""

import dis
import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache

from torch import nn
from torch.nn.parameter import is_lazy

from expanders.errors import SettingError
from expanders.wiring.layers import SparseLayer

DenseLayer = nn.Conv2d | nn.Linear
WIRED_BEFORE = "wired before"
Skip = Collection[str] | Callable[[str, nn.Module], bool]

_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    SparseLayer,
)


def layers_of(model: nn.Module) -> dict[str, DenseLayer]:
    """The convolutions and linear layers of a model, by name."""
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, nn.Conv2d | nn.Linear)}


def all_layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that have a weight for pairs of channels or features, by name."""
    layers: dict[str, nn.Module] = {
        n: layer for n, layer in model.named_modules() if isinstance(layer, _LAYERS)
    }
    for name, layer in layers.items():
        if any(is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
            kind = type(layer).__name__
            raise SettingError(f"layer {name}", kind, "call the model once, so that it has weights")
    return dict(layers)


def stem_and_head(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """The default skip rule: keep an ImageNet stem and the classifier dense.

    That is a first convolution with a stride, and the last linear layer. They are small, and
    every feature passes through them.
    """
    layers = layers_of(model)
    convs = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    linears = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    stem = {name for name in convs[:1] if max(layers[name].stride) > 1}  # type: ignore[arg-type]
    kept = stem | set(linears[-1:])
    return lambda name, module: name in kept


def reasons_to_keep(model: nn.Module, skip: Skip | None) -> dict[str, str]:
    """The layers that stay as they are, each with the reason."""
    rule = _as_rule(layers_of(model), stem_and_head(model) if skip is None else skip)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    readers = read_by_parents(model)
    reasons = {}
    for name, layer in all_layers_of(model).items():
        if type(layer) not in (nn.Conv2d, nn.Linear) or name == "":
            # A subclass may use its weight elsewhere, as MultiheadAttention does.
            wired = isinstance(layer, SparseLayer)
            reasons[name] = WIRED_BEFORE if wired else f"{type(layer).__name__} cannot be wired"
        elif rule(name, layer):
            reasons[name] = "skipped"
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            reasons[name] = "grouped convolution"
        elif "weight" not in dict(layer.named_parameters(recurse=False)):
            reasons[name] = "weight computed from other parameters"
        elif owners[id(layer.weight)] > 1:
            reasons[name] = "shared weight"
        elif name in readers:
            reasons[name] = f"{readers[name]} reads its weight itself"
    return reasons


def read_by_parents(model: nn.Module) -> dict[str, str]:
    """The submodules whose weight a module around them uses itself, and the class of that one.

    As `F.linear(x, self.qkv.weight)` does in attention over shifted windows. Such a layer is never
    called, and its weight must stay dense. Found in the code that runs in `forward`.
    """
    return {
        f"{name}.{path}" if name else path: type(module).__name__
        for name, module in model.named_modules()
        for path in _weights_read_in(type(module))  # type: ignore[arg-type]
    }


@cache
def _weights_read_in(kind: type[nn.Module]) -> frozenset[str]:
    """`a.b` for each `self.a.b.weight` in `forward` and in the methods that it uses.

    PyTorch's own modules are left out: `wire` has them call their layers.
    """
    if kind.__module__.startswith("torch.nn."):
        return frozenset()
    found: set[str] = set()
    seen: set[str] = set()
    to_do = ["forward"]
    while to_do:
        name = to_do.pop()
        function = inspect.getattr_static(kind, name, None)
        if name not in seen and inspect.isfunction(function):
            seen.add(name)
            to_do.extend(function.__code__.co_names)
            for chain in _chains(function):
                if "weight" in chain[1:]:
                    found.add(".".join(chain[: chain.index("weight", 1)]))
    return frozenset(found)


def _chains(function: Callable[..., object]) -> Iterator[list[str]]:
    """The attributes that are looked up one after the other: `[b, c]` for `a.b.c`."""
    chain: list[str] = []
    for instruction in dis.get_instructions(function):
        if instruction.opname == "LOAD_ATTR":
            chain.append(str(instruction.argval))
        elif chain:
            yield chain
            chain = []


def _as_rule(layers: Mapping[str, nn.Module], skip: Skip) -> Callable[[str, nn.Module], bool]:
    if callable(skip):
        return skip
    if isinstance(skip, str):
        raise SettingError("model.skip", skip, f"must be a list of names, such as [{skip}]")
    for name in skip:
        if name not in layers:
            raise SettingError("model.skip", name, f"no such layer; there are: {', '.join(layers)}")
    return lambda name, module: name in skip


def norms_after(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """By the name of a convolution, the batch norm that directly follows it in a Sequential.

    Left out are convolutions and norms that stand in several places.
    """
    places = Counter(id(child) for module in model.modules() for child in module._modules.values())
    norms = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            for (child, conv), (_, norm) in itertools.pairwise(module._modules.items()):
                once = places[id(conv)] == places[id(norm)] == 1
                if once and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    norms[f"{name}.{child}" if name else child] = norm
    return norms
