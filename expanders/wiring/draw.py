"""Which edges a model's layers get: the drawing half of `expanders.wiring.wire.sparsify`.

A wiring method is either a graph model (`expanders.graphs`), which draws one layer at a time from
its sizes and a random stream, or a `Method`, which sees the whole model with its weights and, where
it asks for them, training images. Both are chosen by the group `graph`.
"""

import copy
import itertools
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from expanders import graphs
from expanders.errors import SettingError
from expanders.graphs.edges import IntArray
from expanders.seeds import stream
from expanders.wiring import degrees
from expanders.wiring.layers import Edges

DenseLayer = nn.Conv2d | nn.Linear
Skip = Collection[str] | Callable[[str, nn.Module], bool]
DegreePolicy = Callable[..., list[int]]
LabelledImages = tuple[Tensor, Tensor]
"""Network inputs, float (N, channels, H, W), and labels, int64 (N,)."""


@dataclass(frozen=True)
class Wiring:
    """Which edges exist.

    Attributes:
        edges: of each layer to wire, by its name.
        method: name of the graph model or method that they were drawn by.
        kept: why each other layer stays dense, by its name.
        streams: the seed streams that the edges depend on.
        facts: numbers that the method tells about its choice, by name.
        seconds: that the choice took.
    """

    edges: Mapping[str, Edges]
    method: str
    kept: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Task:
    """What a method works on.

    Attributes:
        model: a copy of the dense model, which the method may change, on the images' device.
        shapes: the layers to wire.
        budgets: edges of each of them, by the degree policy.
        seed: of the stream "graph".
        images: labelled training images, as many as the method asked for; none if it asked for
            none, or None if not even their shape is known.
    """

    model: nn.Module
    shapes: tuple[degrees.LayerShape, ...]
    budgets: tuple[int, ...]
    seed: int
    images: LabelledImages | None = None


@runtime_checkable
class Method(Protocol):
    """A wiring method that sees the whole model."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def images(self) -> int:
        """How many labelled training images it looks at."""
        ...

    @property
    def streams(self) -> tuple[str, ...]:
        """The seed streams ("graph", "init", "data") that its edges depend on."""
        ...

    def draw(self, task: Task) -> tuple[dict[str, IntArray], dict[str, float]]:
        """The edges of every layer of the task, and facts to report; see `Wiring`."""
        ...


Graph = degrees.GraphModel | Method


def draw(
    model: nn.Module,
    graph: Graph = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    seed: int = 0,
    *,
    skip: Skip | None = None,
    images: LabelledImages | None = None,
) -> Wiring:
    """Choose the edges of a dense model's layers. The model stays as it is, bit for bit.

    A graph model draws every layer from a stream keyed by `seed` and the layer's name. Layers
    stay dense that `skip` names, or that cannot be wired (`Wiring.kept` has the reasons).

    Args:
        model, graph, degree, seed, skip: see `expanders.wiring.wire.sparsify`.
        images: labelled training images for a method that asks for them, at least as many. Their
            shape may be needed even where the method looks at none.

    Raises:
        SettingError: if edges cannot be had, or a skipped name does not exist.
    """
    start = time.perf_counter()
    wiring = _chosen(model, graph, degree, seed, skip, images)
    return replace(wiring, seconds=time.perf_counter() - start)


def _chosen(
    model: nn.Module,
    graph: Graph,
    degree: int | float | DegreePolicy,
    seed: int,
    skip: Skip | None,
    images: LabelledImages | None,
) -> Wiring:
    """The wiring that `draw` returns."""
    kept = _reasons_to_keep(model, skip)
    layers = {name: layer for name, layer in layers_of(model).items() if name not in kept}
    if _function(graph) is graphs.dense:
        return Wiring({}, "dense", kept)
    if not layers:
        return Wiring({}, name_of(graph), kept, streams_of(graph))
    network, budgets = _budgets(model, layers, graph, degree)
    shapes = network.layers
    if isinstance(graph, Method):
        chosen = _images_for(graph, images)
        own = copy.deepcopy(model).to(None if chosen is None else chosen[0].device)
        task = Task(own, shapes, budgets, seed, chosen)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for a model that draws random numbers in evaluation too
            edges, facts = graph.draw(task)
        return Wiring(edges, name_of(graph), kept, graph.streams, facts)
    edges = {
        shape.name: _drawn(graph, shape, budget, seed)
        for shape, budget in zip(shapes, budgets, strict=True)
    }
    return Wiring(edges, name_of(graph), kept, streams_of(graph))


def live_parameters(
    model: nn.Module,
    graph: Graph = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    *,
    skip: Skip | None = None,
) -> int:
    """Parameters of the network that `sparsify` would make of a model; no edge is drawn for it."""
    kept = _reasons_to_keep(model, skip)
    layers = {name: layer for name, layer in layers_of(model).items() if name not in kept}
    network, budgets = _budgets(model, layers, graph, degree)
    weights = zip(budgets, network.layers, strict=True)
    return network.other_parameters + sum(
        edges * layer.weights_per_edge for edges, layer in weights
    )


def streams_of(graph: Graph) -> tuple[str, ...]:
    """The seed streams that a wiring depends on: runs that differ in others only share it."""
    if isinstance(graph, Method):
        return graph.streams
    return () if _function(graph) is graphs.dense else ("graph",)


def images_of(graph: Graph) -> int:
    """The number of training images that a wiring needs."""
    return graph.images if isinstance(graph, Method) else 0


def name_of(graph: Graph) -> str:
    """The name of a graph model or method."""
    if isinstance(graph, Method):
        return graph.name
    return getattr(_function(graph), "__name__", repr(graph))


def layers_of(model: nn.Module) -> dict[str, DenseLayer]:
    """The convolutions and linear layers of a model, by name."""
    modules = model.named_modules()
    return {name: layer for name, layer in modules if isinstance(layer, nn.Conv2d | nn.Linear)}


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


def _reasons_to_keep(model: nn.Module, skip: Skip | None) -> dict[str, str]:
    """The layers that stay dense, each with the reason."""
    layers = layers_of(model)
    rule = _as_rule(layers, stem_and_head(model) if skip is None else skip)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    reasons = {}
    for name, layer in layers.items():
        if type(layer) not in (nn.Conv2d, nn.Linear) or name == "":
            # A subclass may use its weight elsewhere, as MultiheadAttention does.
            reasons[name] = type(layer).__name__
        elif rule(name, layer):
            reasons[name] = "skipped"
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            reasons[name] = "grouped convolution"
        elif owners.get(id(layer.weight), 2) > 1:
            reasons[name] = "shared weight"
    return reasons


def _as_rule(layers: Mapping[str, nn.Module], skip: Skip) -> Callable[[str, nn.Module], bool]:
    if callable(skip):
        return skip
    if isinstance(skip, str):
        raise SettingError("model.skip", skip, f"must be a list of names, such as [{skip}]")
    for name in skip:
        if name not in layers:
            raise SettingError("model.skip", name, f"no such layer; there are: {', '.join(layers)}")
    return lambda name, module: name in skip


def _budgets(
    model: nn.Module,
    layers: Mapping[str, DenseLayer],
    graph: Graph,
    degree: int | float | DegreePolicy,
) -> tuple[degrees.NetworkShape, tuple[int, ...]]:
    """The shapes of the layers to wire, and how many edges the policy gives to each."""
    shapes = tuple(_shape(name, layer) for name, layer in layers.items())
    network = degrees.NetworkShape(shapes, _other_parameters(model, layers))
    policy = degree if callable(degree) else partial(degrees.constant, value=degree)
    return network, tuple(policy(network, graph))


def _shape(name: str, layer: DenseLayer) -> degrees.LayerShape:
    num_right, num_left, *kernel = layer.weight.shape
    height, width = kernel or (1, 1)
    return degrees.LayerShape(name, num_left, num_right, (height, width))


def _other_parameters(model: nn.Module, layers: Mapping[str, DenseLayer]) -> int:
    """Parameters of the wired network that lie outside of its graphs."""
    weights = sum(layer.weight.numel() for layer in layers.values())
    unneeded = sum(
        0 if (bias := layers[name].bias) is None else bias.numel()
        for name in convs_before_norm(model) & {*layers}
    )
    return sum(parameter.numel() for parameter in model.parameters()) - weights - unneeded


def convs_before_norm(model: nn.Module) -> set[str]:
    """Convolutions that are directly followed by a batch norm in a Sequential."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            children = list(module.named_children())
            for (child, conv), (_, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    names.add(f"{name}.{child}" if name else child)
    return names


def _drawn(
    graph: degrees.GraphModel, shape: degrees.LayerShape, budget: int, seed: int
) -> IntArray:
    """The edges of one layer, by a graph model."""
    rng = stream(seed, "graph", shape.name)
    try:
        return graph(shape.num_left, shape.num_right, budget, rng)
    except SettingError as error:
        remedy = f"layer {shape.name}: {error.remedy}"
        raise SettingError(error.setting, error.value, remedy) from None


def _images_for(method: Method, images: LabelledImages | None) -> LabelledImages | None:
    """As many images as the method asks for."""
    given = 0 if images is None else len(images[1])
    if given < method.images:
        remedy = f"{method.name} looks at as many labelled images, and was given {given}"
        raise SettingError("graph.images", method.images, remedy)
    return None if images is None else (images[0][: method.images], images[1][: method.images])


def _function(graph: Graph) -> Graph:
    return graph.func if isinstance(graph, partial) else graph
