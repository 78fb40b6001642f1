"""The pictures of a table: accuracy against degree, parameters and expansion; training; layers."""

import base64
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from expanders.report.comparisons import along, dials
from expanders.report.grid import TWIN, Arm, Cell, Column, Table
from expanders.report.measures import AGAINST, LIVE, Measure
from expanders.report.panels import RC, Style, add_legend, logarithmic, panels, styles
from expanders.report.run_records import RunRecord, number
from expanders.report.statistics import describe, slope
from expanders.training import metrics

_ACCURACY = "test accuracy, %"
_SAME_DENSITY = 1.02  # the largest step between densities that count as one
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


def by_arm(table: Table, style: dict[str, Style]) -> Figure | None:
    """Accuracy in a single column, one line for each arm."""
    (column,) = table.columns
    arms = [arm for arm in reversed(table.arms) if table.cell(arm, column).finished]
    figure, (axes,) = panels([column.label], _ACCURACY, "", height=0.6 + 0.22 * len(arms))
    for place, arm in enumerate(arms):
        values = [100 * value for value in table.cell(arm, column).accuracies.values()]
        sample = describe(values)
        look = style[arm.label] | {"linestyle": "None"} | ({"marker": "o"} if arm.is_twin else {})
        axes.errorbar(sample.mean, place, xerr=sample.sd, capsize=3, **look)
        if len(values) > 1:
            axes.plot(values, [place] * len(values), ".", **_small(look))
    axes.set_yticks(range(len(arms)), [arm.label for arm in arms])
    axes.grid(visible=False, axis="y")
    return figure if arms else None


def by_column(table: Table, style: dict[str, Style]) -> Figure | None:
    """Accuracy against degree, or model."""
    by_degree = table.axis == "degree"
    positions = [column.position for column in table.columns]
    by_ratio = by_degree and min(positions) > 0 and len(set(positions)) == len(positions)
    places = np.log2(positions) if by_ratio else np.arange(len(positions), dtype=float)
    step = 0.5 * min(np.diff(places), default=1.0) / (len(table.sparse) + 1)
    figure, (axes,) = panels([""], table.axis, _ACCURACY)
    for index, arm in enumerate(table.sparse):
        shift = step * (index - (len(table.sparse) - 1) / 2)
        cells = [table.cell(arm, column) for column in table.columns]
        _points(axes, list(zip(places + shift, cells, strict=True)), arm.label, style[arm.label])
    if by_degree:
        _level(axes, table.cell(TWIN, table.columns[0]), style[TWIN.label])
    else:
        cells = [table.cell(TWIN, column) for column in table.columns]
        wide = style[TWIN.label] | {"marker": "_", "markersize": 22, "linestyle": "None"}
        _points(axes, list(zip(places, cells, strict=True)), TWIN.label, wide)
    axes.set_xticks(places, [column.label.removeprefix("degree ") for column in table.columns])
    axes.set_xlim(places[0] - 2 * step - 0.1, places[-1] + 2 * step + 0.1)
    return figure if axes.has_data() else None


def by_parameters(table: Table, style: dict[str, Style]) -> Figure | None:
    """Accuracy against live parameters; the dense twin as a line."""
    figure, (axes,) = panels([""], "live parameters", _ACCURACY)
    sizes = {
        (arm, column): size
        for arm, column, cell in table.grid()
        if (size := LIVE.mean(cell)) is not None and size > 0
    }
    sparse = [size for (arm, _), size in sizes.items() if not arm.is_twin]
    if not sparse or max(sparse) <= _SAME_DENSITY * min(sparse):
        return None
    apart = np.log(max(sparse) / min(sparse)) / 100
    for index, arm in enumerate(table.arms):
        shift = np.exp(apart * (index - len(table.sparse) / 2))
        known = [
            (sizes[arm, column] * (1 if arm.is_twin else shift), table.cell(arm, column))
            for column in table.columns
            if (arm, column) in sizes
        ]
        if not arm.is_twin:
            _points(axes, known, arm.label, style[arm.label])
        elif table.axis == "degree":
            _level(axes, table.cell(arm, table.columns[0]), style[arm.label])
        else:
            _points(axes, known, arm.label, style[arm.label] | {"marker": "."})
    logarithmic(axes, "x", EngFormatter(sep=""))
    return figure if axes.has_data() else None


def by_measure(table: Table, style: dict[str, Style], measure: Measure) -> Figure | None:
    """Accuracy against a measure of the graphs, one panel per column and density."""
    groups: list[tuple[Column, list[tuple[float, Arm, RunRecord]]]] = []
    for column in table.columns:
        runs = [
            (record.density, arm, record)
            for arm in table.sparse
            for record in table.cell(arm, column).finished
            if measure.value(record) is not None and record.density is not None
        ]
        groups += [(column, group) for group in _equally_dense(runs)]
    if not groups:
        return None
    titles = [f"{column.label}, density {100 * group[0][0]:.3g} %" for column, group in groups]
    figure, every = panels(titles, measure.heading, _ACCURACY, sharey=False)
    for axes, (column, group) in zip(every, groups, strict=True):
        shown = list(dict.fromkeys(arm for _, arm, _ in group))
        for arm in shown:
            runs_of_arm = [record for _, other, record in group if other == arm]
            x = np.array([measure.value(record) for record in runs_of_arm], dtype=float)
            y = [100 * record.accuracy for record in runs_of_arm]
            hollow = measure is AGAINST["gap"] and table.cell(arm, column).disconnected
            look = style[arm.label] | {"linestyle": "None", "alpha": 0.85}
            look |= {"fillstyle": "none"} if hollow else {}
            axes.plot(x, y, **look, label=arm.label)
        for arms in dials(table):
            if set(arms) <= set(shown):
                _line(axes, along(table, column, arms, measure))
        if measure is AGAINST["bound"]:
            axes.axvline(1, color="black", linestyle=":", linewidth=1)
        if measure is AGAINST["effective"]:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


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
        widths = np.linspace(_THICKEST, _THINNEST, len(arms))
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


def _points(axes: Axes, places: Sequence[tuple[float, Cell]], label: str, style: Style) -> None:
    """Mean ± standard deviation of cells at their places, and their runs as small dots."""
    known = [(x, cell) for x, cell in places if cell.finished]
    if not known:
        return
    samples = [describe(list(cell.accuracies.values())) for _, cell in known]
    axes.errorbar(
        [x for x, _ in known],
        [100 * sample.mean for sample in samples],
        yerr=[np.nan if sample.sd is None else 100 * sample.sd for sample in samples],
        capsize=3,
        label=label,
        **style,
    )
    for x, cell in known:
        values = [100 * value for value in cell.accuracies.values()]
        if len(values) > 1:
            axes.plot([x] * len(values), values, ".", **_small(style))


def _small(style: Style) -> Style:
    """Of the dots of single runs, beside their mean."""
    return {"color": style["color"], "alpha": 0.5, "markersize": 3}


def _level(axes: Axes, cell: Cell, style: Style) -> None:
    """The dense twin as a line across, with its standard deviation as a band."""
    if not cell.finished:
        return
    sample = describe([100 * value for value in cell.accuracies.values()])
    axes.axhline(sample.mean, label=TWIN.label, **style)
    if sample.sd is not None:
        band = (sample.mean - sample.sd, sample.mean + sample.sd)
        axes.axhspan(*band, color=style["color"], alpha=0.08, linewidth=0)


def _line(axes: Axes, points: Sequence[Sequence[tuple[float, float]]]) -> None:
    """The line through the means of the arms of a dial, if there is one."""
    found = slope(points)
    if found is not None:
        ends = np.array([f(x for arm in points for x, _ in arm) for f in (min, max)])
        y = 100 * (found.intercept + found.value * ends)
        axes.plot(ends, y, color="#555555", linewidth=1, zorder=1)


def _equally_dense(
    runs: Sequence[tuple[float, Arm, RunRecord]],
) -> list[list[tuple[float, Arm, RunRecord]]]:
    """Runs, given with their density, in groups of about equal density, the sparsest first."""
    groups: list[list[tuple[float, Arm, RunRecord]]] = []
    for entry in sorted(runs, key=lambda entry: entry[0]):
        if groups and entry[0] <= _SAME_DENSITY * groups[-1][-1][0]:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _edge_counts(cell: Cell) -> tuple[int, ...]:
    """Edges per layer of the first run of a cell that has a report of its layers."""
    for state in ("finished", "unfinished", "failed"):
        for record in cell.having(state):
            if record.wiring.layers:
                return tuple(count for _, count in record.wiring.layers)
    return ()
