"""Which edges of a network to keep, from their scores and a budget of weights."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def best(scores: FloatArray, sizes: NDArray[np.int64], budget: int) -> BoolArray:
    """The edges of the highest scores per weight whose weights fit a budget.

    Edges are taken whole, in the order of score / size (equal ones in the order given), as long as
    they fit; then those further down that still do. So the budget is never exceeded, and what is
    left of it is less than the smallest edge that was not taken. Edges of score -inf are never
    taken.

    Args:
        scores: of the edges, (E,).
        sizes: weights that each edge carries, (E,).
        budget: number of weights.

    Returns:
        Which edges to keep, (E,).
    """
    taken = np.zeros(scores.size, dtype=bool)
    if scores.size and sizes.min() == sizes.max():
        count = min(budget // int(sizes[0]), int(np.sum(scores > -np.inf)))
        taken[_highest(scores, count)] = True
        return taken
    order = np.argsort(-scores / sizes, kind="stable")
    order = order[scores[order] > -np.inf]
    while (order := order[sizes[order] <= budget]).size:
        count = int(np.searchsorted(np.cumsum(sizes[order]), budget, side="right"))
        taken[order[:count]] = True
        budget -= int(sizes[order[:count]].sum())
        order = order[count:]
    return taken


def _highest(scores: FloatArray, count: int) -> NDArray[np.int64]:
    """Where the `count` highest scores are; of equal ones the first."""
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)
    return np.concatenate([above, equal[: count - above.size]])


def shrunk(total: int, target: int, progress: float) -> int:
    """The number between `total` and `target` on an exponential path, at a progress of 0 to 1."""
    return max(target, round(math.pow(target / total, progress) * total))


def split(values: BoolArray, sizes: Sequence[int]) -> list[BoolArray]:
    """A flat array cut into pieces of the given sizes."""
    return np.split(values, np.cumsum(sizes)[:-1])
