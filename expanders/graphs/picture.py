"""A picture of graphs: their biadjacency matrices, and their singular values below.

    from expanders.graphs.picture import Panel, figure

    figure([Panel("rreg", edges, num_left, num_right)]).savefig("graph.png")

Needs matplotlib (the extra `plot`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expanders.graphs import spectra
from expanders.graphs.edges import IntArray

CELLS = 128  # a matrix is drawn with at most as many cells a side, several vertices in each
FIRST, GOOD, BAD = "0.5", "C0", "C3"


class Panel(NamedTuple):
    """One graph of the picture, and the text above it."""

    title: str
    edges: IntArray
    num_left: int
    num_right: int


def figure(panels: Sequence[Panel]) -> Figure:
    """A column for each graph: its biadjacency matrix, and its singular values in falling order.

    Red stripes in the matrix are channels without any edge. A dashed line in the spectrum marks the
    Ramanujan bound, sqrt(mean dL - 1) + sqrt(mean dR - 1). The first singular value, in grey, says
    how many edges there are; the further all others stay below the bound, the better the graph
    expands. Those above it are red.
    """
    picture = Figure(figsize=(2.5 * len(panels), 4.6), layout="constrained")
    rows = picture.subplots(2, len(panels), squeeze=False, height_ratios=(1.15, 1))
    for (upper, lower), panel in zip(rows.T, panels, strict=True):
        _draw_matrix(upper, panel)
        _draw_spectrum(lower, panel)
    top = max(lower.get_ylim()[1] for lower in rows[1])
    for lower in rows[1]:
        lower.set_ylim(0, top)
    rows[0, 0].set_ylabel("output channels")
    rows[1, 0].set_ylabel("singular values")
    return picture


def _draw_matrix(axes: Axes, panel: Panel) -> None:
    """Outputs from top to bottom, inputs from left to right; the more edges, the darker."""
    left, right = panel.edges
    width, height = panel.num_left, panel.num_right
    bins, ranges = (min(height, CELLS), min(width, CELLS)), ((0, height), (0, width))
    cells, _, _ = np.histogram2d(right, left, bins, ranges)
    extent = (0, width, height, 0)
    axes.imshow(cells, cmap="Greys", vmin=0, interpolation="nearest", aspect="auto", extent=extent)
    unused = np.setdiff1d(np.arange(width), left)
    dead = np.setdiff1d(np.arange(height), right)
    axes.bar(unused, height, width=1, align="edge", color=BAD, alpha=0.25)
    axes.barh(dead, width, height=1, align="edge", color=BAD, alpha=0.25)
    axes.set(title=panel.title, xlabel="input channels", xticks=[], yticks=[])
    axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_spectrum(axes: Axes, panel: Panel) -> None:
    """The singular values by rank, with what `spectra.measure` says of them."""
    axes.set(xticks=[])
    if not panel.edges.size:
        return
    graph = panel.edges, panel.num_left, panel.num_right
    measures: Any = spectra.measure(*graph)
    values = np.linalg.svd(spectra.biadjacency(*graph).toarray(), compute_uv=False)
    axes.set(ylim=(0, 1.15 * values[0]))
    bound = measures["ramanujan_bound"]
    colors = [GOOD if spectra.meets_bound(value, bound) else BAD for value in values]
    axes.scatter(np.arange(values.size), values, s=9, color=[FIRST, *colors[1:]])
    axes.axhline(bound, color="black", linestyle="--", linewidth=1)
    place: dict[str, Any] = {"xy": (0.96, bound), "xycoords": ("axes fraction", "data")}
    axes.annotate("Ramanujan bound", ha="right", va="bottom", fontsize="small", **place)
    connected = measures["components"] == 1
    text = f"σ2 / bound = {measures['ramanujan_ratio'] or 0:.2f}\n"
    text += "connected" if connected else f"{measures['components']} components"
    place = {"xy": (0.96, 0.95), "xycoords": "axes fraction"}
    color = GOOD if measures["ramanujan"] else BAD
    axes.annotate(text, ha="right", va="top", color=color, **place)
