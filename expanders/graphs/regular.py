"""Random biregular graphs: both sides of a layer as regular as the budget allows."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from expanders.errors import SettingError, check_choice
from expanders.graphs import expansion, spectra
from expanders.graphs.edges import IntArray, check_budget, complement, relabel, ring, trade

Selection = Literal["none", "ramanujan", "best_of_k", "expansion"]


def rreg(
    num_left: int,
    num_right: int,
    num_edges: int,
    rng: np.random.Generator,
    select: Selection = "ramanujan",
    draws: int = 10,
) -> IntArray:
    """A random simple biregular graph.

    The degrees of each side differ by at most one, the vertices with one edge more being random.
    A draw is uniform over all such graphs up to the mixing of the edge shuffle (`trade`), and
    takes the same number of steps for every draw: nothing is rejected. `select` chooses among at
    most `draws` of them:

    - "none": the first;
    - "ramanujan": the first whose sigma2 meets the Ramanujan bound, else the least sigma2 seen.
      Most draws meet it (`benchmarks/graphs.py`), so this costs one test more than "none" and
      excludes the few bad graphs, disconnected ones among them;
    - "best_of_k": the least sigma2;
    - "expansion": the highest sampled score (`expansion.sampled_score`), for comparison with
      earlier code; it costs the most and does not lower sigma2.

    Raises `SettingError` for an impossible budget, an unknown choice or draws below one.
    """
    check_budget(num_left, num_right, num_edges)
    check_choice("select", select, Selection)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise SettingError("draws", draws, "give a whole number of graphs, at least one")
    if num_edges == num_left * num_right:
        return ring(num_left, num_right, num_edges)
    candidates = (_draw(num_left, num_right, num_edges, rng) for _ in range(draws))
    if select == "none":
        return next(candidates)
    if select == "expansion":
        return max(candidates, key=lambda edges: _score(edges, num_left, num_right, rng))
    return _least_sigma2(candidates, num_left, num_right, enough=select == "ramanujan")


def _draw(num_left: int, num_right: int, num_edges: int, rng: np.random.Generator) -> IntArray:
    pairs = num_left * num_right
    if 2 * num_edges > pairs:  # the complement is biregular too, and smaller
        absent = _draw(num_left, num_right, pairs - num_edges, rng)
        return complement(absent, num_left, num_right)
    start = relabel(ring(num_left, num_right, num_edges), num_left, num_right, rng)
    return trade(start, num_left, num_right, rng)


def _score(edges: IntArray, num_left: int, num_right: int, rng: np.random.Generator) -> float:
    return expansion.sampled_score(spectra.biadjacency(edges, num_left, num_right), rng)


def _least_sigma2(
    candidates: Iterable[IntArray], num_left: int, num_right: int, enough: bool
) -> IntArray:
    """The candidate of least sigma2; with `enough`, the first that meets the Ramanujan bound."""
    least = np.inf
    for edges in candidates:
        second, bound = spectra.sigma2_and_bound(edges, num_left, num_right)
        if second < least:
            least, best = second, edges
        if enough and spectra.meets_bound(second, bound):
            break
    return best
