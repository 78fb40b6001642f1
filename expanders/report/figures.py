"""The pictures of a table: accuracy against degree, parameters and expansion; training; layers."""

import base64
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from expanders.report.accuracy_figures import by_arm, by_column, by_measure, by_parameters
from expanders.report.cells import TWIN, Arm, Cell, Table
from expanders.report.json_files import number
from expanders.report.measures import AGAINST
from expanders.report.panels import RC, Style, add_legend, logarithmic, panels, styles
from expanders.report.statistics import describe
from expanders.training import metrics

_MARKS = 6  # markers on a training curve
_CROWD = 7  # arms that one panel of curves takes
_THICKEST, _THINNEST = 4.5, 1.0  # points, of training curves
_CURVES = {
    "validation": (metrics.VAL_ACCURACY, "validation accuracy, %", 100),
    "loss": (metrics.TRAIN_LOSS, "training loss", 1),
}

TITLES = {
    "accuracy": "Test accuracy",
    "parameters": "Test accuracy against live parameters",
    "gap": "Test accuracy against the normalised gap",
    "bound": "Test accuracy against σ2 / Ramanujan bound",
    "effective": "Test accuracy against effective parameters",
    "reach": "Test accuracy against reach",
    "validation": "Accuracy on the validation images while training",
    "loss": "Training loss",
    "layers": "Edges of each wired layer",
}
_PANELS = (
    "a point is a run. One panel per density: in a panel the networks have about equally many "
    "parameters, and differ in their wiring only. Lines are those of the slopes along dials"
)
NOTES = {
    "accuracy": "mean ± standard deviation over seeds; small dots are the runs. Arms are drawn "
    "side by side.",
    "parameters": "of the whole network; means ± standard deviations. Arms of equal size are drawn "
    "side by side.",
    "gap": f"{_PANELS}. Larger is better expansion. Hollow: most layers are disconnected.",
    "bound": "likewise; graphs left of the dotted line meet the bound, smaller is better.",
    "effective": "likewise.",
    "reach": "likewise.",
    "validation": "mean over seeds, and the range from the lowest to the highest. Runs that did "
    "not finish are drawn only where there are no others. Thin lines lie over thick ones, so that "
    "equal curves can be seen.",
    "loss": "likewise.",
    "layers": "in the network's order, of one run. Arms with equal counts share a line.",
}


class Picture(NamedTuple):
    """A picture as files: its name without a suffix, and what it shows."""

    name: str
    view: str
    svg: bytes
    png: bytes

    @property
    def title(self) -> str:
        """What a reader sees above it."""
        return TITLES[self.view]

    @property
    def base64(self) -> str:
        """The SVG for an image of its own: inline drawings would share their identifiers."""
        return base64.b64encode(self.svg).decode()


def pictures(table: Table, arms: Sequence[Arm], prefix: str) -> Iterator[Picture]:
    """All pictures that the runs of a table allow.

    `arms` are those of the whole page, so that each has one style on it; the names of the pictures
    start with `prefix`.
    """
    style = styles([arm.label for arm in arms], TWIN.label)
    histories = {
        str(record.folder): record.history()
        for _, _, cell in table.grid()
        for record in cell.runs.values()
    }
    views: dict[str, Callable[[], Figure | None]] = {
        "accuracy": lambda: (by_arm if len(table.columns) == 1 else by_column)(table, style),
        "parameters": lambda: by_parameters(table, style),
        **{
            view: lambda measure=measure: by_measure(table, style, measure)  # type: ignore[misc]
            for view, measure in AGAINST.items()
        },
        **{
            view: lambda curve=curve: training(table, style, histories, *curve)  # type: ignore[misc]
            for view, curve in _CURVES.items()
        },
        "layers": lambda: edges(table, style),
    }
    for view, draw in views.items():
        with rc_context(RC), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
            figure = draw()
            if figure is not None:
                add_legend(figure, list(style))
                yield Picture(f"{prefix}-{view}", view, *_saved(figure))


def _saved(figure: Figure) -> tuple[bytes, bytes]:
    """A figure as SVG, without a date, and as PNG."""
    svg, png = BytesIO(), BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=200)
    return svg.getvalue(), png.getvalue()


def training(
    table: Table,
    style: dict[str, Style],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    key: str,
    label: str,
    scale: float,
) -> Figure | None:
    """A metric against the epoch, grouped by cell; thin curves over thick ones.

    Where there are many arms, each kind of them has a panel.
    """
    kinds = list(dict.fromkeys(arm.kind for arm in table.arms))
    groups = [(kind,) for kind in kinds] if len(table.arms) > _CROWD else [tuple(kinds)]
    places = [(column, group) for column in table.columns for group in groups]
    titles = [", ".join([c.label, *(g if len(groups) > 1 else ())]) for c, g in places]
    figure, every = panels(titles, "epoch", label, whole=True)
    for axes, (column, group) in zip(every, places, strict=True):
        arms = [arm for arm in table.arms if arm.kind in group]
        thickest = min(_THICKEST, _THINNEST + len(arms) - 1)
        widths = np.linspace(thickest, _THINNEST, len(arms))
        for index, arm in enumerate(arms):
            epochs: dict[float, list[float]] = defaultdict(list)
            cell = table.cell(arm, column)
            for record in cell.finished or cell.runs.values():
                for row in histories[str(record.folder)]:
                    epoch, value = number(row.get(metrics.EPOCH)), number(row.get(key))
                    if epoch is not None and value is not None:
                        epochs[epoch].append(scale * value)
            if epochs:
                x = sorted(epochs)
                few = max(1, len(x) // _MARKS)
                look = style[arm.label] | {
                    "linewidth": widths[index],
                    "markevery": (index % few, few),
                    "markersize": 3 + 0.8 * widths[index],
                    "fillstyle": "none",
                }
                axes.plot(x, [describe(epochs[e]).mean for e in x], **look, label=arm.label)
                low, high = zip(*((min(epochs[e]), max(epochs[e])) for e in x), strict=True)
                axes.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    if key == metrics.TRAIN_LOSS:
        logarithmic(every[0], "y", StrMethodFormatter("{x:g}"))
    return figure if any(axes.has_data() for axes in every) else None


def edges(table: Table, style: dict[str, Style]) -> Figure | None:
    """Edges of each layer, arms with the same counts drawn as one."""
    figure, every = panels([column.label for column in table.columns], "layer", "edges", whole=True)
    for axes, column in zip(every, table.columns, strict=True):
        sharing: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for arm in table.arms:
            if counts := _edge_counts(table.cell(arm, column)):
                sharing[counts].append(arm.label)
        for counts, names in sharing.items():
            marks = {"markersize": 4, "markevery": max(1, len(counts) // 24)}
            x = range(1, len(counts) + 1)
            axes.plot(x, counts, **style[names[0]] | marks, label=", ".join(names))
    logarithmic(every[0], "y", EngFormatter(sep=""))
    return figure if any(axes.has_data() for axes in every) else None


def _edge_counts(cell: Cell) -> tuple[int, ...]:
    """Edges per layer of the first run of a cell that has a report of its layers."""
    for state in ("finished", "unfinished", "failed"):
        for record in cell.having(state):
            if record.wiring.layers:
                return tuple(count for _, count in record.wiring.layers)
    return ()
