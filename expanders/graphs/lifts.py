"""Graphs built up from a small one by 2-lifts with chosen signs."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expanders.graphs.edges import IntArray, check_budget, complement, sort_edges
from expanders.graphs.regular import rreg

Signs = NDArray[np.float64]

FLIPPED = 0.1  # share of the signs that the first step of the search flips
SQUARINGS = 3  # the search weighs a singular value by its power 2 * 2^SQUARINGS + 1


def lift(num_left: int, num_right: int, num_edges: int, rng: np.random.Generator) -> IntArray:
    """A biregular graph with less sigma2 than random ones have: 2-lifts of a small dense graph.

    A 2-lift takes two copies of every vertex, and joins the copies of an edge's ends in parallel
    where its sign is +, crosswise where it is -. The new singular values are exactly those of the
    signed biadjacency matrix (Bilu and Linial, Combinatorica 2006), and some signs keep them
    within the Ramanujan bound (Marcus, Spielman, Srivastava, Annals of Mathematics 2015). Here
    they are searched for: each lift starts from random signs and flips some as long as that lowers
    the largest new singular value. That ends well below the bound, where the graph is not too
    large for its degree.

    The base halves both sides as often as sides and edges stay even and the graph simple; it is
    the best of some draws of `rreg`, and where nothing can be halved it is the result. Graphs of
    more than half of all pairs are complements of such graphs, with the same sigma2.
    Raises `SettingError` for an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    pairs = num_left * num_right
    if pairs / 2 < num_edges < pairs:
        absent = lift(num_left, num_right, pairs - num_edges, rng)
        return complement(absent, num_left, num_right)
    lifts = 0
    while (num_left | num_right | num_edges) % 2 == 0 and 2 * num_edges <= num_left * num_right:
        num_left, num_right, num_edges = num_left // 2, num_right // 2, num_edges // 2
        lifts += 1
    edges = rreg(num_left, num_right, num_edges, rng, select="best_of_k")
    for _ in range(lifts):
        signs = _search_signs(edges, num_left, num_right, rng)
        edges = _two_lift(edges, num_left, num_right, signs)
        num_left, num_right = 2 * num_left, 2 * num_right
    return edges


def _search_signs(
    edges: IntArray, num_left: int, num_right: int, rng: np.random.Generator
) -> Signs:
    """Signs of the edges that make the largest singular value of the signed matrix S small.

    The gradient of trace((S S^T)^(q+1)) by the entries is proportional to (S S^T)^q S; a sign that
    agrees with it adds to the largest singular values. The signs that agree most are flipped, more
    of them after a step that helped, half as many after one that did not, until one is too many.
    """
    row, column = edges if num_left <= num_right else edges[::-1]
    shape = min(num_left, num_right), max(num_left, num_right)
    best: Signs = rng.choice([-1.0, 1.0], size=row.size)
    signs = best
    least, count = np.inf, FLIPPED * row.size
    matrix = np.zeros(shape)
    while count >= 1:
        matrix[row, column] = signs
        gram = matrix @ matrix.T
        largest = linalg.eigvalsh(gram, subset_by_index=[shape[0] - 1, shape[0] - 1])[0]
        if largest < least * (1 - 1e-9):
            best, least, count = signs, largest, 1.1 * count
            gram /= largest
            for _ in range(SQUARINGS):
                gram = gram @ gram
            agreement = signs * (gram @ matrix)[row, column]
            # ties are left to the order of the edges, not to the rounding errors of a machine
            agreement = np.round(agreement / np.abs(agreement).max(), 6)
            order = np.argsort(-agreement, kind="stable")
        else:
            count /= 2
        signs = best.copy()
        signs[order[: int(count)]] *= -1
    return best


def _two_lift(edges: IntArray, num_left: int, num_right: int, signs: Signs) -> IntArray:
    """Two copies of every vertex, v and v + n; edges of negative sign cross between the copies."""
    left, right = edges
    crossed = signs < 0
    lefts = np.concatenate([left, left + num_left])
    rights = np.concatenate([right + crossed * num_right, right + ~crossed * num_right])
    return sort_edges(lefts, rights, 2 * num_left)
