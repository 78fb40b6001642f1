"""Degree policies: how many edges each layer of a network gets.

Every policy is a function of one signature,

    policy(network, graph, **options) -> list[int]

with one number of edges per layer of `network`, in its order. `graph` is the graph model that the
edges are for (a function, or a `functools.partial` of one); only a policy that follows a model's
own way of counting looks at it. A new policy is one such function and one file in `conf/degree/`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from expanders.errors import SettingError
from expanders.graphs.edges import IntArray
from expanders.graphs.simple import draws_from_input, random, xnet

GraphModel = Callable[..., IntArray]


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
    budget: Literal["equal", "paper"] = "equal",
) -> list[int]:
    """The same degree in every layer: value * max(num_left, num_right) edges, at most all pairs.

    So `value` is the mean degree of the wider side. It need not be an integer; the number of edges
    is rounded. With `budget="equal"` every graph model gets this number; `budget="paper"`
    counts as the reference code does, which gives `random` value * num_left edges and `xnet`
    value * (size of the side that it draws from). Raises `SettingError` for a value below one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
        raise SettingError("degree.value", value, "give a number of at least 1")
    if budget not in ("equal", "paper"):
        raise SettingError("degree.budget", budget, "choose equal or paper")
    return [
        min(round(value * _counted_side(layer, graph, budget)), layer.pairs)
        for layer in network.layers
    ]


def _counted_side(layer: LayerShape, graph: GraphModel, budget: str) -> int:
    """The number of vertices that get `value` edges each."""
    model: Any = graph.func if isinstance(graph, partial) else graph
    if budget == "paper" and model is random:
        return layer.num_left
    if budget == "paper" and model is xnet:
        side = graph.keywords.get("side", "input") if isinstance(graph, partial) else "input"
        from_input = draws_from_input(layer.num_left, layer.num_right, side)
        return layer.num_left if from_input else layer.num_right
    return max(layer.num_left, layer.num_right)
