"""Vertex expansion of a bipartite graph: a certified lower bound, a found upper bound, a sample.

The vertex expansion here is the minimum of |N(S)| / |S| over the non-empty sets S of at most half
of the left vertices (of one vertex where there is only one), N(S) being the right vertices that
have a neighbour in S. Finding it is NP-hard, hence the interval.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from expanders.graphs.edges import IntArray


def lower_bound(left_degrees: IntArray, right_degrees: IntArray, sigma2: float) -> float:
    """A certified lower bound of the vertex expansion, from the spectrum.

    `sigma2` is the second singular value of the normalised biadjacency matrix
    D_L^-1/2 B D_R^-1/2. With vol the sum of degrees and E the number of edges, every set S has

        vol(N(S)) >= vol(S) / (sigma2^2 + (1 - sigma2^2) vol(S) / E),

    and N(S) has at least as many vertices as it takes of the largest right degrees to reach that.
    For biregular graphs this is Tanner's bound (Explicit concentrators from generalized N-gons,
    1984), |N(S)| >= dL^2 |S| / (s^2 + (dL dR - s^2) |S| / n_L) with s the second singular value of
    B, rounded up; the same proof gives it for all degrees.
    """
    if left_degrees.min() == 0:  # a vertex without neighbours is a set that does not expand
        return 0.0
    sizes = np.arange(1, _half(left_degrees.size) + 1)
    volume = np.cumsum(np.sort(left_degrees))[: sizes.size]  # the least that a set of a size has
    share = volume / left_degrees.sum()
    reached = volume / (sigma2**2 + (1 - sigma2**2) * share)
    largest = np.cumsum(np.sort(right_degrees)[::-1])
    # a neighbourhood that misses the bound by rounding errors only is not enlarged by one
    neighbours = 1 + np.searchsorted(largest, reached * (1 - 1e-9))
    return float(np.min(neighbours / sizes))


def greedy_upper_bound(biadjacency: sparse.csr_array, starts: int = 16) -> float:
    """|N(S)| / |S| of the least expanding set that a greedy search finds.

    From each of `starts` left vertices, evenly spaced, the set grows by the left vertex that adds
    the fewest new neighbours; of all the sets passed on the way the best counts. `biadjacency` has
    left vertices as rows.
    """
    to_left = biadjacency.T.tocsr()
    num_left = biadjacency.shape[0]
    best = np.inf
    for start in np.unique(np.linspace(0, num_left - 1, starts).astype(int)):
        new = np.diff(biadjacency.indptr).astype(float)  # neighbours that each vertex would add
        reached = np.zeros(biadjacency.shape[1], dtype=bool)
        vertex, count = start, 0
        for size in range(1, _half(num_left) + 1):
            neighbours = _row(biadjacency, vertex)
            added = neighbours[~reached[neighbours]]
            reached[added] = True
            count += added.size
            best = min(best, count / size)
            for neighbour in added:
                new[_row(to_left, neighbour)] -= 1
            new[vertex] = np.inf
            vertex = int(np.argmin(new))
    return float(best)


def sampled_score(
    biadjacency: sparse.csr_array, rng: np.random.Generator, samples: int = 100
) -> float:
    """The mean of |N(S)| / |S| over random left sets S of at most half of the vertices.

    This is what earlier code for expander networks maximises and calls expansion. It is a mean
    over sets where expansion is a minimum, and for sets of usual size all random graphs have
    nearly the same: kept for comparison.
    """
    num_left = biadjacency.shape[0]
    sizes = rng.integers(1, _half(num_left) + 1, size=samples)
    ranks = rng.permuted(np.tile(np.arange(num_left), (samples, 1)), axis=1)
    chosen = sparse.csr_array((ranks < sizes[:, None]).astype(np.float32))
    return float(np.mean((chosen @ biadjacency).count_nonzero(axis=1) / sizes))


def _half(size: int) -> int:
    return max(size // 2, 1)


def _row(matrix: sparse.csr_array, index: int) -> NDArray[np.int32]:
    return matrix.indices[matrix.indptr[index] : matrix.indptr[index + 1]]
