"""Controls: the degrees and the number of edges of `rreg`, but bad expansion.

They tell whether it is expansion that helps, or only regularity and the number of edges.
"""

import numpy as np

from expanders.errors import SettingError
from expanders.graphs.edges import IntArray, check_budget, check_flag, relabel, ring, trade


def blocks(
    num_left: int, num_right: int, num_edges: int, rng: np.random.Generator, shuffle: bool = False
) -> IntArray:
    """A disjoint union of as many biregular graphs as the degrees allow: a grouped convolution.

    Both sides are cut into equally many runs of vertices, each block being complete or nearly so.
    Blocks hold multiples of num_left / g and num_right / g vertices, g = gcd(num_left, num_right);
    coprime sides make one block. The first singular value repeats once per block: sigma2 = sigma1
    for two and more. `shuffle` renumbers the vertices of both sides at random, so that the blocks
    of successive layers do not line up. Raises `SettingError` for an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    check_flag("shuffle", shuffle)
    units = int(np.gcd(num_left, num_right))
    unit_left, unit_right = num_left // units, num_right // units
    left_degree, right_degree = -(-num_edges // num_left), -(-num_edges // num_right)
    least_size = max(-(-left_degree // unit_right), -(-right_degree // unit_left))
    count = units // least_size
    # Whole numbers of units at near-equal cuts: degrees within a block are those of the whole.
    cuts = np.arange(count + 1) * units // count
    pieces = []
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        size = stop - start
        share = num_edges * stop // units - num_edges * start // units
        offset = [[start * unit_left], [start * unit_right]]
        pieces.append(ring(size * unit_left, size * unit_right, share) + offset)
    edges = np.concatenate(pieces, axis=1)
    return relabel(edges, num_left, num_right, rng) if shuffle else edges


def circulant(
    num_left: int, num_right: int, num_edges: int, rng: np.random.Generator, shuffle: bool = False
) -> IntArray:
    """Every output sees consecutive inputs on a ring: connected, yet slow to mix.

    `shuffle` renumbers the vertices of both sides at random, so that the rings of successive
    layers do not line up. Raises `SettingError` for an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    check_flag("shuffle", shuffle)
    edges = ring(num_left, num_right, num_edges)
    return relabel(edges, num_left, num_right, rng) if shuffle else edges


def rewired(
    num_left: int,
    num_right: int,
    num_edges: int,
    rng: np.random.Generator,
    p: float = 0.1,
    shuffle: bool = False,
) -> IntArray:
    """`blocks` with a share p of its edges shuffled: expansion as a dial at fixed degrees.

    A random set of p num_edges edges is dealt out anew (`trade`), the others stay: p=0 is
    `blocks`, p=1 a random graph with the same degrees. After the small-world dial of Watts and
    Strogatz (1998), which does not keep degrees. `shuffle` is that of `blocks`.
    Raises `SettingError` for an impossible budget or a p outside of 0 to 1.
    """
    if not isinstance(p, int | float) or not 0 <= p <= 1:
        raise SettingError("p", p, "give a share between 0 and 1")
    edges = blocks(num_left, num_right, num_edges, rng, shuffle)
    free = rng.permutation(num_edges) < round(p * num_edges)
    return trade(edges, num_left, num_right, rng, free=free)
