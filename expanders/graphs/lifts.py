"""Graphs built up from a small one by 2-lifts with chosen signs."""

import numpy as np
from scipy import sparse

from expanders import singular
from expanders.errors import SettingError
from expanders.graphs.edges import IntArray, check_budget, complement, sort_edges
from expanders.graphs.regular import rreg


def lift(
    num_left: int, num_right: int, num_edges: int, rng: np.random.Generator, draws: int = 10
) -> IntArray:
    """A near-Ramanujan biregular graph by repeated 2-lifts of a small dense one.

    A 2-lift takes two copies of every vertex, and joins the copies of an edge's ends in parallel
    where its sign is +, crosswise where it is -. The new singular values are exactly those of the
    signed biadjacency matrix (Bilu and Linial, Combinatorica 2006), and some signs keep them
    within the Ramanujan bound (Marcus, Spielman, Srivastava, Annals of Mathematics 2015). Here
    each lift takes the best of `draws` random signings, so sigma2 is known at every step.

    The base halves both sides as often as sides and edges stay even and the graph simple; it is
    the best of `draws` from `rreg`, and where nothing can be halved it is the result. Graphs of
    more than half of all pairs are complements of such graphs, with the same sigma2.
    Raises `SettingError` for an impossible budget or draws below one.
    """
    check_budget(num_left, num_right, num_edges)
    if draws < 1:
        raise SettingError("draws", draws, "draw at least one signing")
    pairs = num_left * num_right
    if pairs / 2 < num_edges < pairs:
        absent = lift(num_left, num_right, pairs - num_edges, rng, draws)
        return complement(absent, num_left, num_right)
    lifts = 0
    while (num_left | num_right | num_edges) % 2 == 0 and 2 * num_edges <= num_left * num_right:
        num_left, num_right, num_edges = num_left // 2, num_right // 2, num_edges // 2
        lifts += 1
    edges = rreg(num_left, num_right, num_edges, rng, select="best_of_k", draws=draws)
    for _ in range(lifts):
        signings = (rng.integers(0, 2, size=num_edges) for _ in range(draws))
        crossed = min(signings, key=lambda signs: _new_sigma(edges, num_left, num_right, signs))
        edges = _two_lift(edges, num_left, num_right, crossed)
        num_left, num_right, num_edges = 2 * num_left, 2 * num_right, 2 * num_edges
    return edges


def _new_sigma(edges: IntArray, num_left: int, num_right: int, crossed: IntArray) -> float:
    """The largest singular value that the 2-lift adds."""
    signed = sparse.csr_array((1.0 - 2 * crossed, (edges[0], edges[1])), (num_left, num_right))
    return singular.norm(signed)


def _two_lift(edges: IntArray, num_left: int, num_right: int, crossed: IntArray) -> IntArray:
    """Two copies of every vertex, v and v + n; the marked edges cross between the copies."""
    left, right = edges
    lefts = np.concatenate([left, left + num_left])
    rights = np.concatenate([right + crossed * num_right, right + (1 - crossed) * num_right])
    return sort_edges(lefts, rights, 2 * num_left)
