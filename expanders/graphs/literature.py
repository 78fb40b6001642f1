"""Wirings that others use for sparse training, with an exact number of edges and none twice."""

import numpy as np

from expanders.graphs.edges import IntArray, check_budget, check_share, relabel, sort_edges, trade

PASSES = 80  # of the edge shuffle: 4-cycles at exponent 1 are those of 320 passes, not so with 20


def diagonal(num_left: int, num_right: int, num_edges: int, rng: np.random.Generator) -> IntArray:
    """Diagonals of the biadjacency matrix at random cyclic offsets.

    After DynaDiag (Tyagi, Iyer, Renninger, Kanan, Zhu, "Dynamic Sparse Training of Diagonally
    Sparse Networks", ICML 2025), without its learning of the offsets. Vertex j of the longer side,
    of n vertices, is connected to the vertices (j + offset) mod m of the shorter one, of m. The
    offsets are drawn without repetition; where n does not divide the number of edges, the last
    diagonal covers a run of vertices only. The degrees of the longer side differ by at most one,
    and so do those of the shorter side if m divides n: one of these diagonals is then n / m of the
    published ones, which cover every vertex of the shorter side once.
    Raises `SettingError` for an impossible budget.
    """
    check_budget(num_left, num_right, num_edges)
    shorter, longer = min(num_left, num_right), max(num_left, num_right)
    count = -(-num_edges // longer)
    offsets = np.repeat(rng.permutation(shorter)[:count], longer)[:num_edges]
    long = (rng.integers(longer) + np.arange(num_edges)) % longer
    short = (long + offsets) % shorter
    left, right = (short, long) if num_left <= num_right else (long, short)
    return sort_edges(left, right, num_left)


def scale_free(
    num_left: int,
    num_right: int,
    num_edges: int,
    rng: np.random.Generator,
    exponent: float = 0.5,
) -> IntArray:
    """A random graph of prescribed degrees, on a dial from regular to heavy-tailed ones.

    On both sides the degree of the vertex of rank i is 1 + c i^-exponent, rounded, and at most the
    size of the other side; c follows from the number of edges. So the number of vertices of degree
    k falls as k^-(1 + 1/exponent): exponent 0 gives the degrees of `rreg`, 0.5 the tail k^-3 of
    preferential attachment (Barabási and Albert, Science 286, 1999), which the bipartite
    scale-free wiring of CHTs follows (Zhang et al., NeurIPS 2025, see `rewired`), 1 the tail k^-2.
    Degrees by rank are those of the static model (Goh, Kahng, Kim, Physical Review Letters 87,
    2001), but for the one edge in advance, which leaves no vertex without any where the budget
    allows. The ranks are dealt to the vertices at random; given the degrees, the graph is uniform
    up to the mixing of the edge shuffle (`trade`).

    Raises `SettingError` for an impossible budget or an exponent outside of 0 to 1.
    """
    check_budget(num_left, num_right, num_edges)
    check_share("exponent", exponent)
    left = _degrees_by_rank(num_left, num_right, num_edges, exponent)
    right = _degrees_by_rank(num_right, num_left, num_edges, exponent)
    edges = relabel(_greedy_graph(left, right), num_left, num_right, rng)
    return trade(edges, num_left, num_right, rng, PASSES)


def _degrees_by_rank(size: int, most: int, num_edges: int, exponent: float) -> IntArray:
    """`size` falling degrees with the sum num_edges: least + c rank^-exponent, but at most `most`.

    `least` is one, or zero where the edges do not suffice for that.
    """
    rank = np.arange(size)
    weight = (1.0 + rank) ** -exponent
    least = int(num_edges >= size)
    # the factor c if exactly the first `rank` vertices have as many edges as they can have
    room = num_edges - rank * most - (size - rank) * least
    factor = room / np.cumsum(weight[::-1])[::-1]
    full = int(np.argmax(least + factor * weight <= most + 1e-9))
    ideal = np.where(rank < full, most, least + factor[full] * weight)
    degrees = np.floor(ideal + 1e-9).astype(np.int64)
    missing = num_edges - int(degrees.sum())
    degrees[np.argsort(degrees - ideal, kind="stable")[:missing]] += 1
    return degrees


def _greedy_graph(left: IntArray, right: IntArray) -> IntArray:
    """A simple graph with these degrees: every vertex takes those that want most edges.

    This finds a graph wherever one has these degrees (Gale, Ryser, 1957). For two sequences of
    `_degrees_by_rank` that was so at each of 75,000 budgets tried; if ever not, one side keeps its
    degrees and the number of edges, and the other side differs a little.
    """
    if left.size > right.size:
        return _greedy_graph(right, left)[::-1]
    wanted = right.copy()
    chosen = []
    for degree in left:
        neighbours = np.argsort(-wanted, kind="stable")[:degree]
        wanted[neighbours] -= 1
        chosen.append(neighbours)
    return np.stack([np.repeat(np.arange(left.size), left), np.concatenate(chosen)])
