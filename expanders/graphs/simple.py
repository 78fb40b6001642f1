"""The complete graph and the two models that are random but not biregular."""

from functools import partial
from typing import Literal

import numpy as np

from expanders.errors import check_choice
from expanders.graphs.edges import IntArray, check_budget, check_flag, sort_edges

Side = Literal["input", "smaller", "output"]


def dense(num_left: int, num_right: int, num_edges: int, rng: np.random.Generator) -> IntArray:
    """The complete bipartite graph, whatever the budget: the unpruned layer.

    `num_edges` and `rng` are ignored. Raises `SettingError` for sizes below one.
    """
    check_budget(num_left, num_right, num_left * num_right)
    pairs = np.arange(num_left * num_right)
    return np.stack([pairs % num_left, pairs // num_left])


def is_dense(graph: object) -> bool:
    """Whether a graph model is `dense`, or a partial of it: nothing is drawn, layers stay dense."""
    return (graph.func if isinstance(graph, partial) else graph) is dense


def random(
    num_left: int,
    num_right: int,
    num_edges: int,
    rng: np.random.Generator,
    binomial: bool = False,
) -> IntArray:
    """An Erdős–Rényi bipartite graph: num_edges of the pairs, uniformly, without repetition.

    `binomial=True` instead keeps every pair independently with the probability that gives
    num_edges on average, so that the number of edges is random too (it may be zero).
    Raises `SettingError` for an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    check_flag("binomial", binomial)
    pairs = num_left * num_right
    count = int(rng.binomial(pairs, num_edges / pairs)) if binomial else num_edges
    keys = rng.choice(pairs, size=count, replace=False, shuffle=False)
    return sort_edges(keys % num_left, keys // num_left, num_left)


def xnet(
    num_left: int,
    num_right: int,
    num_edges: int,
    rng: np.random.Generator,
    side: Side = "input",
) -> IntArray:
    """A graph that is regular on one side: X-Net (Prabhu, Varma, Namboodiri, ECCV 2018).

    Every vertex of the drawing side takes distinct random neighbours, all equally many; where
    num_edges does not divide evenly, random vertices take one more. `side` is the drawing side:
    "input", "output", or "smaller" (as published; input when both are equal).
    Raises `SettingError` for an impossible budget or side.
    """
    check_budget(num_left, num_right, num_edges)
    if draws_from_input(num_left, num_right, side):
        left, right = _draw_neighbours(num_left, num_right, num_edges, rng)
    else:
        right, left = _draw_neighbours(num_right, num_left, num_edges, rng)
    return sort_edges(left, right, num_left)


def draws_from_input(num_left: int, num_right: int, side: Side) -> bool:
    """Whether `xnet` with this `side` draws from the input side of such a layer."""
    check_choice("side", side, Side)
    return side == "input" or (side == "smaller" and num_left <= num_right)


def _draw_neighbours(
    size: int, num_others: int, num_edges: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Vertices and neighbours where each of `size` vertices draws a random set of the others.

    Floyd's sampling without replacement (Bentley and Floyd, 1987), all vertices at once: step j
    takes a random number up to j, or j itself if that number is taken already.
    """
    degree, extra = divmod(num_edges, size)
    taken = np.zeros((size, num_others), dtype=bool)
    everyone = np.arange(size)
    if extra:  # those with one neighbour more begin one step earlier
        drawers = rng.choice(size, size=extra, replace=False)
        taken[drawers, rng.integers(0, num_others - degree, size=extra)] = True
    for j in range(num_others - degree, num_others):
        draw = rng.integers(0, j + 1, size=size)
        taken[everyone, np.where(taken[everyone, draw], j, draw)] = True
    vertex, other = np.nonzero(taken)
    return vertex, other
