"""What all pictures share: styles that stay the same on the whole page, and a grid of panels.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; markers and
lines differ too, so that the pictures survive a printer without colours.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", ">", "p", "h", "X", "*", "d")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))
_WIDTH = 7.2  # inches, of a page between its margins
_PER_ROW = 3
_WRAP = 60  # characters of a label in the legend

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "expanders",  # the same report twice has the same bytes
}

Style = dict[str, Any]


def styles(labels: Sequence[str], twin: str) -> dict[str, Style]:
    """A style for each arm, and black for the dense twin."""
    found: dict[str, Style] = {
        label: {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _LINES[i % len(_LINES)],
        }
        for i, label in enumerate(labels)
    }
    return found | {twin: {"color": "black", "marker": "None", "linestyle": (0, (4, 2))}}


def panels(
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
    *,
    sharey: bool = True,
    whole: bool = False,
    height: float = 2.4,
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title, in rows; `whole` numbers only on the x axis.

    `height` is that of a panel, in inches.
    """
    columns = min(len(titles), _PER_ROW)
    rows = -(-len(titles) // columns)
    width = _WIDTH if columns > 1 else 0.7 * _WIDTH
    figure = Figure(figsize=(width, 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    every = list(grid.flat)
    for axes, title in zip(every, titles, strict=False):
        axes.set_title(title)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=whole))
    for axes in every[len(titles) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel(ylabel)
    return figure, every[: len(titles)]


def logarithmic(axes: Axes, name: Literal["x", "y"], formatter: Formatter) -> None:
    """Make an axis with data logarithmic: labels at powers of ten, or 1, 2 and 5 times them."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def add_legend(figure: Figure, order: Sequence[str]) -> None:
    """One legend below all panels, each label once, those of `order` in that order."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    labels = sorted(handles, key=lambda label: order.index(label) if label in order else -1)
    longest = max(len(label) for label in labels)
    fitting = max(1, int(figure.get_figwidth() / (0.5 + 0.07 * min(longest, _WRAP))))
    lines = -(-len(labels) // fitting)
    figure.legend(
        [handles[label] for label in labels],
        [fill(label, _WRAP) for label in labels],
        loc="outside lower center",
        ncols=-(-len(labels) // lines),
    )
