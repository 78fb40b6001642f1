"""What the graph models share: checking a budget, forming edge arrays, shuffling edges."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expanders.errors import SettingError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
GraphModel = Callable[..., IntArray]


def check_budget(num_left: int, num_right: int, num_edges: int) -> None:
    """Raise `SettingError` unless a num_left x num_right graph can have num_edges edges."""
    for name, size in (("num_left", num_left), ("num_right", num_right), ("num_edges", num_edges)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer):
            raise SettingError(name, size, "give a whole number")
        if size < 1 and name != "num_edges":
            raise SettingError(name, size, "a graph has at least one vertex on each side")
    if not 1 <= num_edges <= num_left * num_right:
        shape, most = f"{num_left}x{num_right}", num_left * num_right
        raise SettingError("num_edges", num_edges, f"a {shape} graph has from 1 to {most} edges")


def check_edges(edges: IntArray, num_left: int, num_right: int) -> None:
    """Raise `SettingError` unless the array is a graph as every model here returns it."""
    if not isinstance(edges, np.ndarray) or edges.dtype != np.int64 or edges.shape[:-1] != (2,):
        raise SettingError("edges", type(edges).__name__, "give an int64 array of shape (2, E)")
    left, right = edges
    outside = ((edges < 0) | (edges >= [[num_left], [num_right]])).any(0)
    steps = np.diff(right * num_left + left, prepend=-1)
    for problem, where in (("outside", outside), ("unsorted", steps < 0), ("repeated", steps == 0)):
        if where.any():
            first = edges[:, np.argmax(where)].tolist()
            remedy = f"a {num_left}x{num_right} graph has distinct edges, sorted by (right, left)"
            raise SettingError("edges", f"{problem}, as {first}", remedy)


def check_flag(setting: str, value: object) -> None:
    """Raise `SettingError` unless the value is true or false: any text would count as true."""
    if not isinstance(value, bool):
        raise SettingError(setting, value, "choose true or false")


def check_share(setting: str, value: object) -> None:
    """Raise `SettingError` unless the value is a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SettingError(setting, value, "give a number between 0 and 1")


def sort_edges(left: NDArray[Any], right: NDArray[Any], num_left: int) -> IntArray:
    """The edges (left[i], right[i]) as an int64 array (2, E), sorted by (right, left)."""
    keys = np.sort(right.astype(np.int64) * num_left + left)
    return np.stack([keys % num_left, keys // num_left])


def complement(edges: IntArray, num_left: int, num_right: int) -> IntArray:
    """The edges of the complete bipartite graph that are not in `edges`."""
    absent = np.ones((num_right, num_left), dtype=bool)
    absent[edges[1], edges[0]] = False
    right, left = np.nonzero(absent)
    return np.stack([left, right])


def ring(num_left: int, num_right: int, num_edges: int) -> IntArray:
    """A biregular graph by formula: each right vertex takes consecutive left vertices of a ring.

    The degrees of each side differ by at most one. With g = gcd(num_left, num_right), right vertex
    j is connected to the left vertices from floor(j num_left / num_right) up to, but without,
    floor((j num_left + c) / num_right), modulo num_left. A constant c = g q gives g q edges and
    balanced degrees on both sides; raising c by g on one of g equal sectors of the ring adds one
    edge, and never two at one vertex.
    """
    sectors = int(np.gcd(num_left, num_right))
    start = np.arange(num_right) * num_left
    longer = np.arange(num_right) // (num_right // sectors) < num_edges % sectors
    stop = start + sectors * (num_edges // sectors + longer)
    first, length = start // num_right, stop // num_right - start // num_right
    right = np.repeat(np.arange(num_right), length)
    step = np.arange(num_edges) - np.repeat(np.cumsum(length) - length, length)
    return sort_edges((first[right] + step) % num_left, right, num_left)


def relabel(edges: IntArray, num_left: int, num_right: int, rng: np.random.Generator) -> IntArray:
    """The same graph with the vertices of each side renumbered at random."""
    left, right = rng.permutation(num_left), rng.permutation(num_right)
    return sort_edges(left[edges[0]], right[edges[1]], num_left)


def trade(
    edges: IntArray,
    num_left: int,
    num_right: int,
    rng: np.random.Generator,
    passes: int = 20,
    free: NDArray[np.bool_] | None = None,
) -> IntArray:
    """Shuffle the edges of a simple graph; every degree stays, and no parallel edge arises.

    Global Curveball (Carstens, Hamann, Meyer, Penschuck, Tran, Wagner, 2018; after Strona et al.,
    2014): in each pass the vertices of the smaller side are paired at random, and the two of a
    pair deal out anew, at random, the neighbours that only one of them has. The chain converges to
    the uniform distribution over the simple graphs with the given degrees. Only edges marked in
    `free` (all by default) are dealt out.
    """
    flip = num_left > num_right
    row, column = edges[::-1] if flip else edges
    num_rows, num_columns = min(num_left, num_right), max(num_left, num_right)
    held = np.zeros(row.size, dtype=np.int64) if free is None else 1 - free.astype(np.int64)
    for _ in range(passes):
        order = rng.permutation(num_rows)
        place = np.empty(num_rows, dtype=np.int64)
        place[order] = np.arange(num_rows)
        # One sort brings the neighbours of a pair together: (pair, column | which of the two, held)
        place = place[row]
        keys = np.sort((((place >> 1) * num_columns + column) * 2 + (place & 1)) * 2 + held)
        held, who, cell = keys & 1, keys >> 1 & 1, keys >> 2
        pair, column = np.divmod(cell, num_columns)
        shared = np.zeros(keys.size + 1, dtype=bool)
        shared[1:-1] = cell[1:] == cell[:-1]
        dealt = np.flatnonzero(~(shared[1:] | shared[:-1]) & (held == 0))
        column[dealt] = _shuffle_within(pair[dealt], column[dealt], rng)
        row = order[2 * pair + who]
    return sort_edges(column, row, num_left) if flip else sort_edges(row, column, num_left)


def _shuffle_within(group: IntArray, value: IntArray, rng: np.random.Generator) -> IntArray:
    """`value` permuted at random inside each run of equal `group` (group is sorted)."""
    if not value.size:
        return value
    bits = int(value.max()).bit_length()
    # (group, random, value) in one integer: sorting it permutes the values within the groups
    room = 63 - bits - int(group[-1]).bit_length()
    draw = rng.integers(0, 1 << room, size=value.size)
    keys = np.sort((((group << room) | draw) << bits) | value)
    return keys & ((1 << bits) - 1)
