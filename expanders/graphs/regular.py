"""Random biregular graphs: both sides of a layer as regular as the budget allows."""

import numpy as np

from expanders.graphs.edges import IntArray, check_budget, complement, relabel, ring, trade


def rreg(num_left: int, num_right: int, num_edges: int, rng: np.random.Generator) -> IntArray:
    """A random simple biregular graph.

    The degrees of each side differ by at most one, the vertices with one edge more being random.
    The draw is uniform over all such graphs up to the mixing of the edge shuffle (`trade`), and
    takes the same number of steps for every draw: nothing is rejected. Raises `SettingError` for
    an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    pairs = num_left * num_right
    if 2 * num_edges > pairs:  # the complement is biregular too, and smaller
        if num_edges == pairs:
            return ring(num_left, num_right, num_edges)
        absent = rreg(num_left, num_right, pairs - num_edges, rng)
        return complement(absent, num_left, num_right)
    start = relabel(ring(num_left, num_right, num_edges), num_left, num_right, rng)
    return trade(start, num_left, num_right, rng)
