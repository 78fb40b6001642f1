"""The pictures of a table: accuracy against degree, parameters and expansion; training; layers."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from expanders.report.grid import Cell, Table
from expanders.report.panels import RC, Style, add_legend, logarithmic, panels, styles
from expanders.report.read import DENSE, Run, history, layers, number
from expanders.report.statistics import describe
from expanders.report.tables import parameters
from expanders.training import metrics

_ACCURACY = "test accuracy, %"
_TWIN = "dense twin"
_SAME_DENSITY = 1.02  # the largest step between densities that count as one
_MARKS = 6  # markers on a training curve
_METRICS = {
    metrics.VAL_ACCURACY: ("validation accuracy, %", 100),
    metrics.TRAIN_LOSS: ("training loss", 1),
}

_CAPTIONS = {
    "accuracy": "Test accuracy: mean ± standard deviation over seeds; small dots are the runs. "
    "Graph models are drawn side by side.",
    "parameters": "Test accuracy against the live parameters of the whole network: mean ± "
    "standard deviation over seeds.",
    "gap": "Test accuracy against the normalised spectral gap (mean over the layers); larger is "
    "better expansion. One panel per density: in a panel the networks have about equally many "
    "parameters, and differ in their wiring only. A point is a run.",
    "bound": "Test accuracy against σ2 divided by the Ramanujan bound (mean over the layers): "
    "graphs left of the dotted line meet the bound, and smaller is better expansion. Panels as "
    "before.",
    "validation": "Accuracy on the validation images while training: mean over seeds, and the "
    "range from the lowest to the highest. Runs that did not finish are drawn only where there are "
    "no others.",
    "loss": "Training loss, drawn likewise.",
    "layers": "Edges of each layer that the graph model wires, in the network's order, of one run. "
    "Graph models with the same edge counts share a line.",
}


class Picture(NamedTuple):
    """A picture as files: its name without a suffix, what it shows, what to read beside it."""

    name: str
    view: str
    caption: str
    svg: bytes
    png: bytes


def pictures(table: Table, rows: Sequence[str], prefix: str) -> Iterator[Picture]:
    """All pictures that the runs of a table allow.

    `rows` are the graph models of the whole page, so that each has one style on it; the names of
    the pictures start with `prefix`.
    """
    style = styles(rows)
    histories = {
        run.folder: history(run)
        for row in (*table.rows, DENSE)
        for column in table.columns
        for run in table.cell(row, column).runs.values()
    }
    views: dict[str, Callable[[], Figure | None]] = {
        "accuracy": lambda: by_column(table, style),
        "parameters": lambda: by_parameters(table, style),
        "gap": lambda: by_measure(table, style, metrics.NORMALISED_GAP, "normalised gap"),
        "bound": lambda: by_measure(table, style, metrics.RAMANUJAN_RATIO, "σ2 / bound"),
        "validation": lambda: training(table, style, histories, metrics.VAL_ACCURACY),
        "loss": lambda: training(table, style, histories, metrics.TRAIN_LOSS),
        "layers": lambda: edges(table, style),
    }
    for view, draw in views.items():
        with rc_context(RC):
            figure = draw()
            if figure is not None:
                add_legend(figure, [*rows, _TWIN])
                name = f"{prefix}-{view}"
                yield Picture(name, view, _CAPTIONS[view], *_saved(figure))


def _saved(figure: Figure) -> tuple[bytes, bytes]:
    """A figure as SVG, without a date, and as PNG."""
    svg, png = BytesIO(), BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=200)
    return svg.getvalue(), png.getvalue()


def by_column(table: Table, style: dict[str, Style]) -> Figure | None:
    """Accuracy against degree, or model."""
    by_degree = table.axis == "degree"
    positions = [column.position for column in table.columns]
    by_ratio = by_degree and min(positions) > 0 and len(set(positions)) == len(positions)
    places = np.log2(positions) if by_ratio else np.arange(len(positions), dtype=float)
    step = 0.5 * min(np.diff(places), default=1.0) / (len(table.rows) + 1)
    figure, (axes,) = panels([""], table.axis, _ACCURACY)
    for index, row in enumerate(table.rows):
        shift = step * (index - (len(table.rows) - 1) / 2)
        cells = [table.cell(row, column) for column in table.columns]
        _points(axes, list(zip(places + shift, cells, strict=True)), row, style[row])
    if by_degree:
        _level(axes, table.cell(DENSE, table.columns[0]), style[DENSE])
    else:
        cells = [table.cell(DENSE, column) for column in table.columns]
        wide = style[DENSE] | {"marker": "_", "markersize": 22, "linestyle": "None"}
        _points(axes, list(zip(places, cells, strict=True)), _TWIN, wide)
    axes.set_xticks(places, [column.label.removeprefix("degree ") for column in table.columns])
    axes.set_xlim(places[0] - 2 * step - 0.1, places[-1] + 2 * step + 0.1)
    return figure if axes.has_data() else None


def by_parameters(table: Table, style: dict[str, Style]) -> Figure | None:
    """Accuracy against live parameters; the dense twin as a line."""
    figure, (axes,) = panels([""], "live parameters", _ACCURACY)
    for row in (*table.rows, DENSE):
        cells = [table.cell(row, column) for column in table.columns]
        known = [(size[0], cell) for cell in cells if (size := parameters(cell)) is not None]
        if row != DENSE:
            _points(axes, known, row, style[row])
        elif table.axis == "degree":
            _level(axes, cells[0], style[DENSE])
        else:
            _points(axes, known, _TWIN, style[DENSE] | {"marker": "."})
    logarithmic(axes, "x", EngFormatter(sep=""))
    return figure if axes.has_data() else None


def by_measure(table: Table, style: dict[str, Style], key: str, label: str) -> Figure | None:
    """Accuracy against a measure of the graphs, one panel per column and density."""
    groups = []
    for column in table.columns:
        runs = [
            (run.density, row, run)
            for row in table.rows
            for run in table.cell(row, column).finished
            if key in run.summary and run.density is not None
        ]
        groups += [(column, group) for group in _equally_dense(runs)]
    if not groups:
        return None
    titles = [f"{column.label}, density {100 * group[0][0]:.3g} %" for column, group in groups]
    figure, every = panels(titles, label, _ACCURACY, sharey=False)
    for axes, (_, group) in zip(every, groups, strict=True):
        for row in table.rows:
            runs_of_row = [run for _, name, run in group if name == row]
            if runs_of_row:
                x = [run.summary[key] for run in runs_of_row]
                y = [100 * run.accuracy for run in runs_of_row]
                axes.plot(x, y, **style[row] | {"linestyle": "None"}, label=row, alpha=0.85)
        if key == metrics.RAMANUJAN_RATIO:
            axes.axvline(1, color="black", linestyle=":", linewidth=1)
    return figure


def training(
    table: Table,
    style: dict[str, Style],
    histories: Mapping[Path, Sequence[Mapping[str, object]]],
    key: str,
) -> Figure | None:
    """A metric against the epoch, grouped by cell."""
    name, scale = _METRICS[key]
    figure, every = panels([column.label for column in table.columns], "epoch", name, whole=True)
    for axes, column in zip(every, table.columns, strict=True):
        for index, row in enumerate((*table.rows, DENSE)):
            epochs: dict[float, list[float]] = defaultdict(list)
            cell = table.cell(row, column)
            for run in cell.finished or cell.runs.values():
                for each in histories[run.folder]:
                    epoch, value = number(each.get(metrics.EPOCH)), number(each.get(key))
                    if epoch is not None and value is not None:
                        epochs[epoch].append(scale * value)
            if epochs:
                x = sorted(epochs)
                every_few = max(1, len(x) // _MARKS)
                marks = {"markevery": (index % every_few, every_few), "markersize": 4}
                means = [describe(epochs[epoch]).mean for epoch in x]
                axes.plot(x, means, **style[row] | marks, label=_TWIN if row == DENSE else row)
                low, high = zip(*((min(epochs[e]), max(epochs[e])) for e in x), strict=True)
                axes.fill_between(x, low, high, color=style[row]["color"], alpha=0.15, linewidth=0)
    if key == metrics.TRAIN_LOSS:
        logarithmic(every[0], "y", StrMethodFormatter("{x:g}"))
    return figure if any(axes.has_data() for axes in every) else None


def edges(table: Table, style: dict[str, Style]) -> Figure | None:
    """Edges of each layer, graph models with the same counts drawn as one."""
    figure, every = panels([column.label for column in table.columns], "layer", "edges", whole=True)
    for axes, column in zip(every, table.columns, strict=True):
        sharing: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for row in (*table.rows, DENSE):
            if counts := _edge_counts(table.cell(row, column)):
                sharing[counts].append(row)
        for counts, rows in sharing.items():
            label = ", ".join(_TWIN if row == DENSE else row for row in rows)
            marks = {"markersize": 4, "markevery": max(1, len(counts) // 24)}
            axes.plot(range(1, len(counts) + 1), counts, **style[rows[0]] | marks, label=label)
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
            axes.plot([x] * len(values), values, ".", color=style["color"], alpha=0.5, markersize=3)


def _level(axes: Axes, cell: Cell, style: Style) -> None:
    """The dense twin as a line across, with its standard deviation as a band."""
    if not cell.finished:
        return
    sample = describe([100 * value for value in cell.accuracies.values()])
    axes.axhline(sample.mean, label=_TWIN, **style)
    if sample.sd is not None:
        band = (sample.mean - sample.sd, sample.mean + sample.sd)
        axes.axhspan(*band, color=style["color"], alpha=0.08, linewidth=0)


def _equally_dense(runs: list[tuple[float, str, Run]]) -> list[list[tuple[float, str, Run]]]:
    """Runs, given with their density, in groups of about equal density, the sparsest first."""
    groups: list[list[tuple[float, str, Run]]] = []
    for entry in sorted(runs, key=lambda entry: entry[0]):
        if groups and entry[0] <= _SAME_DENSITY * groups[-1][-1][0]:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _edge_counts(cell: Cell) -> tuple[int, ...]:
    """Edges per layer of the first run of a cell that has a report of its layers."""
    for run in (*cell.finished, *cell.having("unfinished"), *cell.having("failed")):
        if counts := layers(run):
            return tuple(count for _, count in counts)
    return ()
