"""Degree policies: how many edges each layer of a network gets.

Every policy is a function of one signature,

    policy(network, graph, **options) -> list[int]

with one number of edges per layer of `network`, in its order. `graph` is the graph model that the
edges are for (a function, or a `functools.partial` of one); only a policy that follows a model's
own way of counting looks at it. A layer gets at least one edge and at most all pairs. A new policy
is one such function and one file in `conf/degree/`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

from expanders.errors import SettingError, check_choice
from expanders.graphs.edges import GraphModel as GraphModel
from expanders.graphs.simple import draws_from_input, random, xnet

Granularity = Literal["kernel", "weight"]
"""What an edge carries: a kernel, or a single weight of one."""
Budget = Literal["equal", "paper"]
Spread = Literal["constant", "uniform", "erk"]


@dataclass(frozen=True)
class LayerShape:
    """The channel graph's shape of one layer, and the kernel that each edge carries."""

    name: str
    num_left: int
    num_right: int
    kernel_size: tuple[int, int] = (1, 1)

    @property
    def pairs(self) -> int:
        """The number of edges of the complete graph."""
        return self.num_left * self.num_right

    def taps(self, granularity: Granularity) -> int:
        """Vertices of the graph for each input channel: one, or one for each place in a kernel."""
        return 1 if granularity == "kernel" else self.weights_per_edge

    @property
    def weights_per_edge(self) -> int:
        """The number of weights that one edge carries."""
        return self.kernel_size[0] * self.kernel_size[1]


@dataclass(frozen=True)
class NetworkShape:
    """The layers that get a graph, and the number of parameters outside those graphs.

    `other_parameters` counts biases, normalisation and the layers that stay dense.
    """

    layers: tuple[LayerShape, ...]
    other_parameters: int = 0


def constant(
    network: NetworkShape,
    graph: GraphModel,
    value: float = 3,
    budget: Budget = "equal",
) -> list[int]:
    """The same degree in every layer: value * max(num_left, num_right) edges, at most all pairs.

    So `value` is the mean degree of the wider side. It need not be an integer; the number of edges
    is rounded. With `budget="equal"` every graph model gets this number; `budget="paper"`
    counts as the reference code does, which gives `random` value * num_left edges and `xnet`
    value * (size of the side that it draws from). Raises `SettingError` for a value below one.
    """
    degree = _number(value)
    if not 1 <= degree < math.inf:
        raise SettingError("degree.value", value, "give a number of at least 1")
    check_choice("degree.budget", budget, Budget)
    return [
        round(min(degree * _counted_side(layer, graph, budget), layer.pairs))
        for layer in network.layers
    ]


def density(network: NetworkShape, graph: GraphModel, density: float = 0.05) -> list[int]:
    """One density for the whole network, reached by the same degree in every layer.

    The weights of all graphs together are `density` times those of the complete graphs, rounded
    down to whole edges: less than one edge of each layer that still has room is missing.
    Raises `SettingError` for a density outside of (0, 1] or too small for one edge per layer.
    """
    return _spread(network, _constant_shares(network), *_weights_of_density(network, density))


def uniform(network: NetworkShape, graph: GraphModel, density: float = 0.05) -> list[int]:
    """The same density in every layer: density * pairs edges, rounded, and at least one.

    Raises `SettingError` for a density outside of (0, 1].
    """
    *_, share = _weights_of_density(network, density)
    return [max(round(share * layer.pairs), 1) for layer in network.layers]


def erk(network: NetworkShape, graph: GraphModel, density: float = 0.05) -> list[int]:
    """Erdős–Rényi-Kernel: small layers keep more, by their fan-in plus fan-out.

    The density of a layer is proportional to (n_left + n_right + k_h + k_w) / (n_left n_right k_h
    k_w), at most one (Evci et al., ICML 2020; for 1x1 kernels Mocanu et al., 2018). The weights of
    all graphs together are `density` times those of the complete graphs, rounded down to whole
    edges. Raises `SettingError` as `density` does.
    """
    return _spread(network, _erk_shares(network), *_weights_of_density(network, density))


def total(
    network: NetworkShape,
    graph: GraphModel,
    parameters: int,
    spread: Spread = "constant",
) -> list[int]:
    """A number of parameters for the whole network, with all that lies outside the graphs.

    What `network.other_parameters` leaves goes to the graphs, rounded down to whole edges: at the
    same degree ("constant"), at the same density ("uniform") or as in `erk`.
    Raises `SettingError` for fewer parameters than the network needs, or more than it has.
    """
    shares = {"constant": _constant_shares, "uniform": _pairs, "erk": _erk_shares}
    check_choice("degree.spread", spread, Spread)
    dense = sum(layer.pairs * layer.weights_per_edge for layer in network.layers)
    if isinstance(parameters, bool) or not isinstance(parameters, Integral):
        raise SettingError("degree.parameters", parameters, "give a whole number")
    parameters = int(parameters)
    if parameters > dense + network.other_parameters:
        remedy = f"the dense network has {dense + network.other_parameters} parameters"
        raise SettingError("degree.parameters", parameters, remedy)
    weights = parameters - network.other_parameters
    return _spread(network, shares[spread](network), weights, "degree.parameters", parameters)


def _counted_side(layer: LayerShape, graph: GraphModel, budget: str) -> int:
    """The number of vertices that get `value` edges each."""
    model: Any = graph.func if isinstance(graph, partial) else graph
    if budget == "paper" and model is random:
        return layer.num_left
    if budget == "paper" and model is xnet:
        side: Any = graph.keywords.get("side", "input") if isinstance(graph, partial) else "input"
        from_input = draws_from_input(layer.num_left, layer.num_right, side)
        return layer.num_left if from_input else layer.num_right
    return max(layer.num_left, layer.num_right)


def _constant_shares(network: NetworkShape) -> list[float]:
    return [max(layer.num_left, layer.num_right) for layer in network.layers]


def _pairs(network: NetworkShape) -> list[float]:
    return [layer.pairs for layer in network.layers]


def _erk_shares(network: NetworkShape) -> list[float]:
    return [
        (layer.num_left + layer.num_right + sum(layer.kernel_size)) / layer.weights_per_edge
        for layer in network.layers
    ]


def _weights_of_density(network: NetworkShape, density: float) -> tuple[int, str, float]:
    """The number of weights that a density of all graphs allows, and the setting it came from."""
    share = _number(density)
    if not 0 < share <= 1:
        raise SettingError("degree.density", density, "give a number above 0 and at most 1")
    dense = sum(layer.pairs * layer.weights_per_edge for layer in network.layers)
    return int(share * dense + 1e-9), "degree.density", share


def _number(value: object) -> float:
    """A number, also one of NumPy, as Python's own, which does not overflow; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return int(value) if isinstance(value, Integral) else float(value)


def _spread(
    network: NetworkShape, shares: Sequence[float], weights: int, setting: str, value: float
) -> list[int]:
    """Edges in proportion to `shares`, from one to all pairs each, that have `weights` weights.

    The common factor of the shares is found by bisection, the edges are rounded down, and what
    that leaves over goes to the layers in the order of their remainders, as long as an edge fits.
    `setting` and `value` are named where not even one edge per layer fits.
    """
    least = sum(layer.weights_per_edge for layer in network.layers)
    if weights < least:
        remedy = f"one edge per layer needs {least} weights, the graphs are left {weights}"
        raise SettingError(setting, value, remedy)

    def ideal(factor: float) -> list[float]:
        pairs = [layer.pairs for layer in network.layers]
        return [min(max(factor * s, 1.0), p) for s, p in zip(shares, pairs, strict=True)]

    def size(counts: Sequence[float]) -> float:
        sized = zip(counts, network.layers, strict=True)
        return sum(count * layer.weights_per_edge for count, layer in sized)

    low, high = 0.0, max(layer.pairs for layer in network.layers) / min(shares)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if size(ideal(middle)) <= weights else (low, middle)
    edges = [int(count + 1e-9) for count in ideal(low)]
    remainders = [count - floor for count, floor in zip(ideal(low), edges, strict=True)]
    order = sorted(range(len(edges)), key=lambda i: -remainders[i])
    left_over = weights - size(edges)
    grown = True
    while grown:
        grown = False
        for i in order:
            layer = network.layers[i]
            if edges[i] < layer.pairs and layer.weights_per_edge <= left_over:
                edges[i] += 1
                left_over -= layer.weights_per_edge
                grown = True
    return edges
