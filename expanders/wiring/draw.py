"""Which edges a model's layers get: the drawing half of `expanders.wiring.wire.sparsify`.

A wiring method is either a graph model (`expanders.graphs`), which draws one layer at a time from
its sizes and a random stream, or a `Method`, which sees the whole model with its weights and, where
it asks for them, training images. Both are chosen by the group `graph`.
"""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from expanders import graphs
from expanders.errors import SettingError, check_choice
from expanders.graphs.edges import IntArray, check_edges
from expanders.graphs.simple import is_dense
from expanders.seeds import Seed, stream
from expanders.wiring import degrees
from expanders.wiring.eligible import (
    WIRED_BEFORE,
    DenseLayer,
    Skip,
    layers_of,
    norms_after,
    reasons_to_keep,
)
from expanders.wiring.layers import Edges

_log = logging.getLogger(__name__)
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
        granularity: what an edge carries. If it is a "weight", the left vertices of a convolution's
            edges are its taps (see `expanders.wiring.unstructured`).
    """

    edges: Mapping[str, Edges]
    method: str
    kept: Mapping[str, str] = field(default_factory=dict)
    streams: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)
    granularity: degrees.Granularity = "kernel"


@dataclass(frozen=True)
class Task:
    """What a method works on.

    Attributes:
        model: a copy of the dense model, which the method may change, on the images' device.
        shapes: the layers to wire.
        budgets: edges of each of them, by the degree policy.
        seed: of the stream "graph".
        images: labelled training images, as many as the method asked for. Where it asked for
            none, a batch of no images, which has their shape; None where that is not known.
        granularity: what an edge shall carry; `budgets` are in kernels all the same.
    """

    model: nn.Module
    shapes: tuple[degrees.LayerShape, ...]
    budgets: tuple[int, ...]
    seed: int
    images: LabelledImages | None = None
    granularity: degrees.Granularity = "kernel"


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
        """The seeds that its edges depend on, of those in `expanders.seeds.Seed`."""
        ...

    def draw(self, task: Task) -> tuple[dict[str, IntArray], dict[str, float]]:
        """The edges of every layer of the task, and facts to report; see `Wiring`."""
        ...


WiringMethod = degrees.GraphModel | Method


def draw(
    model: nn.Module,
    graph: WiringMethod = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    seed: int = 0,
    *,
    skip: Skip | None = None,
    images: LabelledImages | None = None,
    granularity: degrees.Granularity = "kernel",
) -> Wiring:
    """Choose the edges of a dense model's layers. The model stays as it is, bit for bit.

    A graph model draws every layer from a stream keyed by `seed` and the layer's name. Layers
    stay dense that `skip` names, or that cannot be wired (`Wiring.kept` has the reasons).

    Args:
        model, graph, degree, seed, skip, granularity: see `expanders.wiring.wire.sparsify`.
        images: labelled training images for a method that asks for them, at least as many. Their
            shape may be needed even where the method looks at none.

    Raises:
        SettingError: if edges cannot be had, or a skipped name does not exist.
    """
    check_choice("graph.granularity", granularity, degrees.Granularity)
    if not isinstance(graph, Method) and not callable(graph):
        remedy = "give a graph model itself, such as expanders.graphs.rreg"
        raise SettingError("graph", repr(graph), remedy)
    if not callable(degree) and (isinstance(degree, bool) or not isinstance(degree, Real)):
        raise SettingError("degree", repr(degree), "give a number or a degree policy")
    kept = reasons_to_keep(model, skip)
    layers = {name: layer for name, layer in layers_of(model).items() if name not in kept}
    if not layers and WIRED_BEFORE in kept.values() and not is_dense(graph):
        remedy = "all its layers are wired or kept already; build the model anew to wire it again"
        raise SettingError("model", type(model).__name__, remedy)
    start = time.perf_counter()
    edges: Mapping[str, Edges] = {}
    facts: Mapping[str, float] = {}
    if layers and not is_dense(graph):
        network, budgets = _budgets(model, layers, graph, degree)
        task = Task(model, network.layers, budgets, seed, None, granularity)
        edges, facts = _drawn(task, graph, images)
        if not isinstance(graph, Method):
            _tell_of_extremes(task, graph, edges)
    seconds = time.perf_counter() - start
    return Wiring(edges, name_of(graph), kept, streams_of(graph), facts, seconds, granularity)


def live_parameters(
    model: nn.Module,
    graph: WiringMethod = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    *,
    skip: Skip | None = None,
) -> int:
    """Parameters of the network that `sparsify` would make of a model; no edge is drawn for it."""
    kept = reasons_to_keep(model, skip)
    layers = {name: layer for name, layer in layers_of(model).items() if name not in kept}
    network, budgets = _budgets(model, layers, graph, degree)
    weights = zip(budgets, network.layers, strict=True)
    return network.other_parameters + sum(
        edges * layer.weights_per_edge for edges, layer in weights
    )


def streams_of(graph: WiringMethod) -> tuple[str, ...]:
    """The seeds that a wiring depends on: runs that differ in others only share it.

    Raises:
        SettingError: if a method names a seed that there is not; it would be taken for independent.
    """
    if isinstance(graph, Method):
        for name in graph.streams:
            check_choice(f"{graph.name}.streams", name, Seed)
        return graph.streams
    return () if is_dense(graph) else ("graph",)


def name_of(graph: WiringMethod) -> str:
    """The name of a graph model or method."""
    if isinstance(graph, Method):
        return graph.name
    function = graph.func if isinstance(graph, partial) else graph
    return getattr(function, "__name__", repr(graph))


def _budgets(
    model: nn.Module,
    layers: Mapping[str, DenseLayer],
    graph: WiringMethod,
    degree: int | float | DegreePolicy,
) -> tuple[degrees.NetworkShape, tuple[int, ...]]:
    """The shapes of the layers to wire, and how many edges the policy gives to each."""
    shapes = tuple(_shape(name, layer) for name, layer in layers.items())
    network = degrees.NetworkShape(shapes, _other_parameters(model, layers))
    policy = degree if callable(degree) else partial(degrees.constant, value=float(degree))
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
        for name in norms_after(model).keys() & layers.keys()
    )
    return sum(parameter.numel() for parameter in model.parameters()) - weights - unneeded


def _drawn(
    task: Task, graph: WiringMethod, images: LabelledImages | None
) -> tuple[dict[str, IntArray], dict[str, float]]:
    """The edges of all layers, and facts to report."""
    if not isinstance(graph, Method):
        pairs = zip(task.shapes, task.budgets, strict=True)
        return {shape.name: _layer(task, graph, shape, budget) for shape, budget in pairs}, {}
    chosen = _images_for(graph, images)
    own = copy.deepcopy(task.model).to(None if chosen is None else chosen[0].device)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)  # for a model that draws random numbers in evaluation too
        return graph.draw(replace(task, model=own, images=chosen))


def _tell_of_extremes(task: Task, graph: WiringMethod, edges: Mapping[str, Edges]) -> None:
    """Warn of a graph model that does not keep to its budget, and of layers that are complete."""
    weights = {
        shape.name: edges[shape.name].shape[1]
        * shape.weights_per_edge
        // shape.taps(task.granularity)
        for shape in task.shapes
    }
    drawn = sum(weights.values())
    asked = sum(n * s.weights_per_edge for n, s in zip(task.budgets, task.shapes, strict=True))
    if abs(drawn - asked) > asked / 10:
        what = "edges of %s have %d weights, where the degree asks for %d"
        _log.warning(what, name_of(graph), drawn, asked)
    if all(weights[s.name] == s.pairs * s.weights_per_edge for s in task.shapes):
        _log.warning("every wired layer is complete: this is the dense network (graph=dense)")


def _layer(
    task: Task, graph: degrees.GraphModel, shape: degrees.LayerShape, budget: int
) -> IntArray:
    """The edges of one layer, by a graph model; `budget` kernels, or as many single weights."""
    taps = shape.taps(task.granularity)
    rng = stream(task.seed, "graph", shape.name)
    num_left = shape.num_left * taps
    try:
        edges = graph(num_left, shape.num_right, budget * taps, rng)
        check_edges(edges, num_left, shape.num_right)
        return edges
    except SettingError as error:
        remedy = f"{name_of(graph)}, layer {shape.name}: {error.remedy}"
        is_option = error.setting not in ("num_left", "num_right", "num_edges", "edges")
        setting = f"graph.{error.setting}" if is_option else error.setting
        raise SettingError(setting, error.value, remedy) from None


def _images_for(method: Method, images: LabelledImages | None) -> LabelledImages | None:
    """As many images as the method asks for."""
    given = 0 if images is None else len(images[1])
    if given < method.images:
        remedy = f"{method.name} looks at as many labelled images, and was given {given}"
        raise SettingError("graph.images", method.images, remedy)
    return None if images is None else (images[0][: method.images], images[1][: method.images])
