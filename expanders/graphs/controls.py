"""Controls: the degrees and the number of edges of `rreg`, but bad expansion.

They tell whether it is expansion that helps, or only regularity and the number of edges.
"""

from typing import Literal

import numpy as np

from expanders.errors import check_choice
from expanders.graphs.edges import (
    IntArray,
    check_budget,
    check_flag,
    check_share,
    relabel,
    ring,
    trade,
)

Base = Literal["blocks", "circulant"]


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
    base: Base = "blocks",
) -> IntArray:
    """`blocks` or `circulant` with a share p of the edges shuffled: expansion as a dial.

    A random set of p num_edges edges is dealt out anew (`trade`), the others stay, and so do all
    degrees: p=0 is the base, p=1 a random graph with the same degrees. That is `rreg` with
    select=none where the degrees divide evenly; elsewhere `rreg` also draws which vertices have
    one edge more. Between them the base "circulant" is a small world (Watts and Strogatz, 1998), on
    two sides as in CHTs (Zhang et al., "Brain network science modelling of sparse neural networks
    enables Transformers and LLMs to perform as fully connected", NeurIPS 2025); both of these
    redraw single edges anywhere, which does not keep degrees. `shuffle` is that of the base.
    Raises `SettingError` for an impossible budget, an unknown base or a p outside of 0 to 1.
    """
    check_share("p", p)
    check_choice("base", base, Base)
    start = blocks if base == "blocks" else circulant
    edges = start(num_left, num_right, num_edges, rng, shuffle)
    free = rng.permutation(num_edges) < round(p * num_edges)
    return trade(edges, num_left, num_right, rng, free=free)
