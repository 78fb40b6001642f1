"""Pictures of accuracy: by arm, degree or model; against parameters and measures of the graphs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from expanders.report.cells import TWIN, Arm, Cell, Column, Table
from expanders.report.comparisons import along, dials
from expanders.report.measures import LIVE, Measure
from expanders.report.panels import Style, logarithmic, panels
from expanders.report.run_records import RunRecord
from expanders.report.statistics import describe, slope

_ACCURACY = "test accuracy, %"
_SAME_DENSITY = 1.02  # the largest step between densities that count as one


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
    """Accuracy against a measure that varies, one panel per column and density."""
    groups: list[tuple[Column, list[tuple[float, Arm, RunRecord]]]] = []
    for column in table.columns:
        runs = [
            (record.density, arm, record)
            for arm in table.sparse
            for record in table.cell(arm, column).finished
            if measure.value(record) is not None and record.density is not None
        ]
        for group in _equally_dense(runs):
            if len({measure.value(record) for _, _, record in group}) > 1:
                groups.append((column, group))
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
            hollow = measure.needs_connection and table.cell(arm, column).disconnected
            look = style[arm.label] | {"linestyle": "None", "alpha": 0.85}
            look |= {"fillstyle": "none"} if hollow else {}
            axes.plot(x, y, **look, label=arm.label)
        for dial in dials(table):
            if set(dial.arms) <= set(shown):
                _line(axes, along(table, column, dial.arms, measure))
        if measure.bound is not None:
            axes.axvline(measure.bound, color="black", linestyle=":", linewidth=1)
        if measure.step >= 1:  # a count
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


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
