"""Which edges of a network to keep, from their scores and a budget of weights.

The edges of a layer are an array of scores, (num_right, num_left, taps): one tap where an edge is a
kernel, one for each position in the kernel where it is a single weight. An edge of score -inf was
removed before, and is not taken again.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from expanders.graphs.edges import IntArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def best(scores: FloatArray, sizes: IntArray, budget: int) -> BoolArray:
    """The edges of the highest scores per weight whose weights fit a budget.

    Edges are taken whole, in the order of score / size (equal ones in the order given), as long as
    they fit; then those further down that still do. So the budget is never exceeded, and what is
    left of it is less than the smallest edge that could still be taken.

    Args:
        scores: of the edges, (E,).
        sizes: weights that each edge carries, (E,).
        budget: number of weights.

    Returns:
        Which edges to keep, (E,).
    """
    taken = np.zeros(scores.size, dtype=bool)
    if sizes.min() == sizes.max():  # no sorting: a network has millions of weights
        count = min(budget // int(sizes[0]), int(np.sum(scores > -np.inf)))
        taken[_highest(scores, count)] = True
        return taken
    left = np.flatnonzero(scores > -np.inf)
    while (left := left[sizes[left] <= budget]).size:
        most = budget // int(sizes[left].min())
        order = left[_highest_in_order(scores[left] / sizes[left], most)]
        count = int(np.searchsorted(np.cumsum(sizes[order]), budget, side="right"))
        taken[order[:count]] = True
        budget -= int(sizes[order[:count]].sum())
        left = left[~taken[left]]
    return taken


def _highest(scores: FloatArray, count: int) -> IntArray:
    """Where the `count` highest scores are; of equal ones the first."""
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)
    return np.concatenate([above, equal[: count - above.size]])


def _highest_in_order(values: FloatArray, count: int) -> IntArray:
    """Where the `count` highest values are, and all that equal the last; the highest first.

    Few of millions of edges are kept, and only these are sorted.
    """
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        found = np.flatnonzero(values >= threshold)
    else:
        found = np.arange(values.size)
    return found[np.argsort(-values[found], kind="stable")]


def best_over(
    scores: Mapping[str, FloatArray],
    sizes: Mapping[str, int],
    budget: int,
    reserved: Mapping[str, BoolArray],
) -> dict[str, BoolArray]:
    """The `best` edges of several layers within one budget, all the reserved ones among them.

    Args:
        scores: of every layer, (num_right, num_left, taps).
        sizes: weights that an edge of each layer carries.
        budget: weights of all layers together, at least those of the reserved edges.
        reserved: edges to keep whatever the others' scores, of the shapes of `scores`.
    """
    free = {name: np.where(reserved[name], -np.inf, values) for name, values in scores.items()}
    spent = sum(int(reserved[name].sum()) * sizes[name] for name in scores)
    edge_sizes = [np.full(values.size, sizes[name]) for name, values in scores.items()]
    flat = np.concatenate([values.ravel() for values in free.values()])
    taken = best(flat, np.concatenate(edge_sizes), budget - spent)
    pieces = np.split(taken, np.cumsum([values.size for values in scores.values()])[:-1])
    pairs = zip(scores.items(), pieces, strict=True)
    return {name: piece.reshape(values.shape) | reserved[name] for (name, values), piece in pairs}


def best_edge(scores: FloatArray) -> BoolArray:
    """One layer's edge of the highest score."""
    chosen = np.zeros(scores.shape, dtype=bool)
    chosen.flat[scores.argmax()] = True
    return chosen


def cover(scores: FloatArray) -> BoolArray:
    """One layer's best edges that together touch every channel, input and output.

    First the edges that are the best of both their channels, again and again among the channels
    left over: the matching that taking edges in the order of their scores would give. Then the
    best edge of each channel that this left out. Of a complete graph these are
    max(num_left, num_right) edges, the fewest possible; a channel without any edge stays so.
    """
    kernels = scores.max(axis=2)
    chosen = np.zeros(kernels.shape, dtype=bool)
    left_over = kernels.copy()
    while True:
        best_left, best_right = left_over.argmax(axis=1), left_over.argmax(axis=0)
        right = np.flatnonzero(best_right[best_left] == np.arange(len(best_left)))
        right = right[left_over[right, best_left[right]] > -np.inf]
        if not right.size:
            break
        chosen[right, best_left[right]] = True
        left_over[right] = -np.inf
        left_over[:, best_left[right]] = -np.inf
    for row in np.flatnonzero(~chosen.any(axis=1)):
        chosen[row, kernels[row].argmax()] = kernels[row].max() > -np.inf
    for column in np.flatnonzero(~chosen.any(axis=0)):
        chosen[kernels[:, column].argmax(), column] = kernels[:, column].max() > -np.inf
    edges = np.zeros(scores.shape, dtype=bool)
    right, left = np.nonzero(chosen)
    edges[right, left, scores[right, left].argmax(axis=1)] = True
    return edges


def shrunk(total: int, target: int, progress: float) -> int:
    """A number between `total` and `target`, on an exponential path; progress from 0 to 1.

    It is rounded up, as in SynFlow's published code: an edge more or less in every round changes
    some percent of what is left at the end.
    """
    return target if progress >= 1 else math.ceil(total * (target / total) ** progress)
