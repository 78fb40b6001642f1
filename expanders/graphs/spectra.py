"""Measures of a channel graph: spectrum, components, cycles, expansion.

B is the biadjacency matrix (left vertices are rows), sigma1 >= sigma2 its largest singular values,
dL and dR the degrees of the two sides. A graph expands well where sigma2 is small.
"""

import statistics
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from expanders.errors import check_choice
from expanders.graphs import expansion
from expanders.graphs.edges import IntArray, check_edges
from expanders.graphs.singular import two_largest

Measures = dict[str, float | int | None]
Extent = Literal["default", "full"]


def measure(
    edges: IntArray, num_left: int, num_right: int, measures: Extent = "default"
) -> Measures:
    """The measures of one graph, by name; None where one is not defined.

    - edges, density; {left, right}_degree_{min, mean, max}
    - unused_inputs, dead_outputs: left and right vertices without any edge. What follows is
      measured on the graph without them, except for the expansion.
    - components: connected components (1 = connected)
    - sigma1, sigma2: the largest two singular values of B; sigma1 = sqrt(dL dR) iff biregular
    - normalised_gap: 1 - sigma2(D_L^-1/2 B D_R^-1/2), which is 1 - sigma2 / sqrt(dL dR) for
      biregular graphs (Chung, Spectral Graph Theory, 1997)
    - ramanujan_bound: sqrt(mean dL - 1) + sqrt(mean dR - 1) (Feng and Li, 1996, for biregular
      graphs; with mean degrees Hoang et al., ICLR 2023); ramanujan_ratio: sigma2 / bound;
      ramanujan: 1 where the ratio is at most one, 0 elsewhere
    - delta_r: bound - sigma2 (Hoang et al.); imdb, four_cycles, girth: see the functions
    - expansion_lower: see `expansion.lower_bound`

    `measures="full"` adds what costs more: expansion_upper (`expansion.greedy_upper_bound`) and
    legacy_score (`expansion.sampled_score`, from a fixed stream). A graph without edges has the
    counts only. An unknown choice raises `SettingError`, and so do edges that are not as a graph
    model returns them.
    """
    check_choice("measures", measures, Extent)
    check_edges(edges, num_left, num_right)
    num_edges = edges.shape[1]
    left = np.bincount(edges[0], minlength=num_left)
    right = np.bincount(edges[1], minlength=num_right)
    values: Measures = {"edges": num_edges, "density": num_edges / (num_left * num_right)}
    for side, degrees in (("left", left), ("right", right)):
        values[f"{side}_degree_min"] = int(degrees.min())
        values[f"{side}_degree_mean"] = float(degrees.mean())
        values[f"{side}_degree_max"] = int(degrees.max())
    values["unused_inputs"] = int(np.sum(left == 0))
    values["dead_outputs"] = int(np.sum(right == 0))
    if num_edges == 0:
        return values | {"components": 0, "expansion_lower": 0.0}
    if num_edges == num_left * num_right:
        structure = _complete(num_left, num_right)
    else:
        structure = _measured(_without_isolated(biadjacency(edges, num_left, num_right)))
    values |= structure
    normalised_sigma2 = 1 - float(structure["normalised_gap"] or 0)
    values["expansion_lower"] = expansion.lower_bound(left, right, normalised_sigma2)
    if measures == "full":
        matrix = biadjacency(edges, num_left, num_right)
        values["expansion_upper"] = expansion.greedy_upper_bound(matrix)
        values["legacy_score"] = expansion.sampled_score(matrix, np.random.default_rng(0))
    return values


def summary(layers: Iterable[Measures]) -> Measures:
    """Measures of a network as a whole, from those of its layers; None where no layer has any.

    normalised_gap_{mean, min} and ramanujan_ratio_{mean, max} over the layers; ramanujan_share:
    of layers that meet the bound; disconnected_layers: with more than one component.
    """
    layers = list(layers)

    def over(key: str, reduce: Callable[[list[float]], float]) -> float | None:
        values = [float(value) for layer in layers if (value := layer.get(key)) is not None]
        return float(reduce(values)) if values else None

    return {
        "normalised_gap_mean": over("normalised_gap", statistics.fmean),
        "normalised_gap_min": over("normalised_gap", min),
        "ramanujan_ratio_mean": over("ramanujan_ratio", statistics.fmean),
        "ramanujan_ratio_max": over("ramanujan_ratio", max),
        "ramanujan_share": over("ramanujan", statistics.fmean),
        "disconnected_layers": sum((layer.get("components") or 0) > 1 for layer in layers),
    }


def biadjacency(edges: IntArray, num_left: int, num_right: int) -> sparse.csr_array:
    """The biadjacency matrix: ones at (left, right), num_left x num_right, float64, CSR."""
    starts = np.searchsorted(edges[1], np.arange(num_right + 1))  # edges are sorted by right vertex
    by_right = sparse.csr_array((np.ones(edges.shape[1]), edges[0], starts), (num_right, num_left))
    return by_right.T.tocsr()


def ramanujan_bound(matrix: sparse.csr_array) -> float:
    """sqrt(mean dL - 1) + sqrt(mean dR - 1), of a graph without isolated vertices."""
    return sum(float(np.sqrt(matrix.nnz / size - 1)) for size in matrix.shape)


def sigma2_and_bound(edges: IntArray, num_left: int, num_right: int) -> tuple[float, float]:
    """sigma2 of B and the Ramanujan bound, both of the graph without isolated vertices."""
    matrix = _without_isolated(biadjacency(edges, num_left, num_right))
    return spectrum(matrix)[1], ramanujan_bound(matrix)


def meets_bound(second: float, bound: float) -> bool:
    """Whether sigma2 is at most the Ramanujan bound, to rounding."""
    return second <= bound * (1 + 1e-9)


def spectrum(matrix: sparse.csr_array) -> tuple[float, float, float]:
    """sigma1 and sigma2 of B, and sigma2 of D_L^-1/2 B D_R^-1/2. No vertex may be isolated.

    The top singular value of the normalised matrix is one, with known vectors, the square roots of
    the degrees; for a biregular graph one eigenproblem therefore gives all three.
    """
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T.tocsr()
    rows, columns = np.diff(matrix.indptr), np.bincount(matrix.indices)
    normalised = matrix.copy()
    normalised.data /= np.sqrt(np.repeat(rows, rows) * columns[matrix.indices])
    gap_value = two_largest(normalised, np.sqrt(rows / matrix.nnz))[1]
    if np.ptp(rows) == 0 and np.ptp(columns) == 0:
        sigma1 = float(np.sqrt(rows[0] * columns[0]))
        return sigma1, gap_value * sigma1, gap_value
    return *two_largest(matrix), gap_value


def components(matrix: sparse.csr_array) -> int:
    """The number of connected components of the bipartite graph."""
    num_left, num_right = matrix.shape
    starts = np.pad(matrix.indptr, (0, num_right), mode="edge")
    size = num_left + num_right
    graph = sparse.csr_array((matrix.data, matrix.indices + num_left, starts), (size, size))
    return int(connected_components(graph, directed=False)[0])


def imdb(matrix: sparse.csr_array) -> float | None:
    """Iterative mean difference of bound (Hoang et al., ICLR 2023).

    The mean, over the left degrees that at least three vertices have, of bound - sigma2 of the
    subgraph of the left vertices with that degree and their neighbours; for left-regular graphs
    this is delta_r. Larger is better. None where no three left vertices share a degree.
    """
    degrees = np.diff(matrix.indptr)
    differences = []
    for degree in np.flatnonzero(np.bincount(degrees) >= 3):
        subgraph = _without_isolated(matrix[degrees == degree])
        differences.append(ramanujan_bound(subgraph) - spectrum(subgraph)[1])
    return float(np.mean(differences)) if differences else None


def four_cycles(matrix: sparse.csr_array) -> int:
    """The number of 4-cycles: the pairs of common neighbours of all pairs of one side."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T.tocsr()
    if matrix.nnz * 8 > matrix.shape[0] * matrix.shape[1]:
        rows = matrix.toarray().astype(np.float32)  # exact: common neighbours are below 2^24
        common = (rows @ rows.T).astype(np.int64).ravel()
    else:
        common = (matrix @ matrix.T).data.astype(np.int64)
    of_pairs = np.sum(common * (common - 1))
    of_itself = np.diff(matrix.indptr).astype(np.int64)
    return int(of_pairs - np.sum(of_itself * (of_itself - 1))) // 4


def girth(matrix: sparse.csr_array) -> int | None:
    """The length of the shortest cycle, None for a forest.

    Breadth-first search from all left vertices at once. While no vertex has two parents in the
    level before it, the search trees are trees; two parents at distance t close a cycle of 2 t.
    """
    steps = (matrix, matrix.T.tocsr())
    previous, level, distance = sparse.eye_array(matrix.shape[0], format="csr"), matrix, 1
    while level.nnz:
        parents = level @ steps[distance % 2]
        parents -= parents.multiply(previous)  # the way back
        parents.eliminate_zeros()
        distance += 1
        if parents.nnz and parents.max() > 1:
            return 2 * distance
        previous, level = level, parents
    return None


def _measured(matrix: sparse.csr_array) -> Measures:
    """The measures of structure of a graph without isolated vertices."""
    connected = components(matrix)
    sigma1, second, normalised = spectrum(matrix)
    if connected > 1:  # exactly, where iterations would leave a rounding error
        normalised = 1.0
    values = _spectral(sigma1, second, normalised, ramanujan_bound(matrix))
    left_regular = np.ptp(np.diff(matrix.indptr)) == 0
    cycles = four_cycles(matrix)
    return {
        "components": connected,
        **values,
        "imdb": values["delta_r"] if left_regular else imdb(matrix),
        "four_cycles": cycles,
        "girth": 4 if cycles else girth(matrix),
    }


def _complete(num_left: int, num_right: int) -> Measures:
    """`_measured` of the complete graph, by formula."""
    bound = float(np.sqrt(num_left - 1) + np.sqrt(num_right - 1))
    values = _spectral(float(np.sqrt(num_left * num_right)), 0.0, 0.0, bound)
    cycles = num_left * (num_left - 1) * num_right * (num_right - 1) // 4
    return {
        "components": 1,
        **values,
        "imdb": values["delta_r"],
        "four_cycles": cycles,
        "girth": 4 if cycles else None,
    }


def _spectral(sigma1: float, second: float, normalised: float, bound: float) -> Measures:
    return {
        "sigma1": sigma1,
        "sigma2": second,
        "normalised_gap": 1 - normalised,
        "ramanujan_bound": bound,
        "ramanujan_ratio": second / bound if bound else None,
        "ramanujan": int(meets_bound(second, bound)),
        "delta_r": bound - second,
    }


def _without_isolated(matrix: sparse.csr_array) -> sparse.csr_array:
    rows, columns = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=matrix.shape[1])
    if rows.min() and columns.min():
        return matrix
    return matrix[rows > 0][:, columns > 0]
