"""Tables of arms, cells and runs: what stands in them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from expanders.report.cells import Arm, Cell, Column, Table
from expanders.report.entries import NONE, Entry, TextTable, named, points, short
from expanders.report.measures import COSTS, FLOPS_SHARE, GRAPHS, LIVE_SHARE, Measure
from expanders.report.places import text
from expanders.report.run_records import RunRecord
from expanders.report.statistics import describe, paired
from expanders.training import metrics

_SHORT = 80  # characters of an error that a cell shows; the list of failed runs has all

Anchors = dict[tuple[Arm, Column], str]
"""The anchor of each cell's runs."""


def accuracies(table: Table, anchors: Anchors) -> TextTable:
    """Accuracy by arm and column as in the paper, the dense twin in the last line."""
    rows: list[list[Entry]] = []
    for arm in table.arms:
        once = arm.is_twin and table.axis == "degree"  # one dense network for all degrees
        entries = []
        for column in table.columns[:1] if once else table.columns:
            accuracy = _accuracy(table, arm, column)
            lines = (*accuracy.lines, *_shares(table.cell(arm, column)))
            entries.append(replace(accuracy, lines=lines, link=_link(anchors, arm, column)))
        if once:
            entries = [replace(entries[0], span=len(table.columns))]
        new_kind = arm.kind if not rows or table.arms[len(rows) - 1].kind != arm.kind else ""
        rows.append([short(new_kind), named(arm.label), *entries])
    return TextTable(["", "wiring", *(column.label for column in table.columns)], rows)


def side_by_side(table: Table, anchors: Anchors) -> TextTable:
    """Every arm of every column: what it looked at, its accuracy, what it costs."""
    reference = table.arms[0]
    measures = _present(table, COSTS)
    header = ["", "wiring", "looks at", "accuracy, %", f"− {reference.label}, 95 % interval"]

    def entries(arm: Arm, column: Column, cell: Cell) -> list[Entry]:
        accuracy = replace(_accuracy(table, arm, column), link=_link(anchors, arm, column))
        if not cell.finished:
            return [short(""), replace(accuracy, span=2 + len(measures))]
        difference = _minus_reference(table, arm, reference, column)
        needs = short(", ".join(arm.needs) or NONE)
        return [needs, accuracy, difference, *_means(measures, cell)]

    return _by_cell(table, [*header, *(measure.heading for measure in measures)], entries)


def graph_measures(table: Table) -> TextTable | None:
    """Every arm of every column: how its graphs expand; None where no run says."""
    measures = _present(table, GRAPHS)

    def entries(arm: Arm, column: Column, cell: Cell) -> list[Entry]:
        return [_accuracy_only(cell), *_means(measures, cell)] if cell.finished else []

    header = ["", "wiring", "accuracy, %", *(measure.heading for measure in measures)]
    return _by_cell(table, header, entries) if measures else None


def tuning(table: Table) -> TextTable | None:
    """Validation accuracy of every value of the tuned settings; None where nothing was tuned."""
    cells = [own for _, _, cell in table.grid() for own in (cell, *cell.rejected) if own.tuned]
    tuned = sorted({own.tuned for own in cells}, key=repr)

    def entries(arm: Arm, column: Column, cell: Cell) -> list[Entry]:
        own = {each.tuned: each for each in (cell, *cell.rejected)}
        return [replace(_tried(own.get(each, Cell())), best=each == cell.tuned) for each in tuned]

    return _by_cell(table, ["", "wiring", *map(text, tuned)], entries) if tuned else None


def runs(table: Table, anchors: Anchors, links: dict[str, tuple[str, str]]) -> TextTable:
    """All runs of a table by cell; `links` has name and address of each folder."""
    rows = []
    for arm, column, cell in table.grid():
        anchor = anchors.get((arm, column), "")
        where = f"{arm.label}, {column.label}" if not arm.is_twin else arm.label
        chosen = [*cell.runs.values(), *(r for other in cell.rejected for r in other.runs.values())]
        for index, record in enumerate(chosen):
            name, address = links[str(record.folder)]
            seconds = record.summary.get(metrics.SECONDS)
            remarks: list[str] = [record.state]
            remarks += ["not chosen"] if index >= len(cell.runs) else []
            if record.config.get("start_from"):
                known = ", whose test accuracy was known" if record.test_read_before else ""
                remarks.append(f"went on with another run{known}")
            rows.append(
                [
                    Entry(("" if index else where,), kind="name", anchor="" if index else anchor),
                    Entry((name,), kind="text", link=address),
                    short(seeds(record)),
                    Entry(("; ".join(remarks),), kind="text"),
                    Entry((points(record.accuracy) if record.summary else NONE,)),
                    Entry((NONE if seconds is None else f"{seconds:,.0f}",)),
                ]
            )
    return TextTable(["cell", "folder", "seeds", "state", "accuracy, %", "seconds"], rows)


def status(cell: Cell) -> str:
    """`finished`, if a cell has a number, or else why not: `failed`, `unfinished`, `missing`."""
    states = {record.state for record in cell.runs.values()}
    return next((s for s in ("finished", "failed", "unfinished") if s in states), "missing")


def progress(record: RunRecord) -> str:
    """How far an unfinished run came: `epoch 12 of 300`."""
    rows = record.history()
    done = rows[-1][metrics.EPOCH] if rows else 0
    return f"epoch {done} of {record.config.get('epochs', '?')}"


def seeds(record: RunRecord) -> str:
    """`0`, or `graph 1, init 0, data 0` where they differ."""
    known = {name: s for name, s in record.streams._asdict().items() if s is not None}
    same = len(set(known.values())) == 1
    return str(record.streams.init) if same else ", ".join(f"{k} {s}" for k, s in known.items())


def highest(table: Table, column: Column) -> list[Arm]:
    """The arms with the highest mean in a column, the dense twin aside, if there are several."""
    cells = {arm: list(table.cell(arm, column).accuracies.values()) for arm in table.sparse}
    means = {arm: describe(values).mean for arm, values in cells.items() if values}
    return [arm for arm in means if len(means) > 1 and means[arm] == max(means.values())]


def _tried(cell: Cell) -> Entry:
    """The mean validation accuracy of one value of the tuned settings, and how many runs failed."""
    accuracy = NONE if cell.validation is None else points(cell.validation)
    failed = len(cell.having("failed"))
    return Entry((accuracy, f"{failed} failed") if failed else (accuracy,))


def _link(anchors: Anchors, arm: Arm, column: Column) -> str:
    return f"#{anchors[arm, column]}" if (arm, column) in anchors else ""


def _by_cell(
    table: Table,
    header: Sequence[str],
    entries: Callable[[Arm, Column, Cell], Sequence[Entry]],
) -> TextTable:
    """A row for each cell that has runs and entries, column after column.

    The first entry of a row names its column, or the kind of its arm in a table of one column; it
    is empty where it repeats the one above.
    """
    rows = []
    before = ""
    for column in table.columns:
        for arm in table.arms:
            cell = table.cell(arm, column)
            once = arm.is_twin and table.axis == "degree"
            own = entries(arm, column, cell) if cell.runs else []
            if not own or (once and column != table.columns[-1]):
                continue
            label = "any degree" if once else column.label
            label = arm.kind if len(table.columns) == 1 else label
            rows.append([short("" if label == before else label), named(arm.label), *own])
            before = label
    return TextTable(header, rows)


def _present(table: Table, measures: Collection[Measure]) -> list[Measure]:
    """The measures that any run of a table has."""
    cells = [cell for _, _, cell in table.grid()]
    return [m for m in measures if any(m.mean(cell) is not None for cell in cells)]


def _means(measures: Iterable[Measure], cell: Cell) -> list[Entry]:
    means = [(measure, measure.mean(cell)) for measure in measures]
    return [Entry((NONE if mean is None else m.shown(mean),)) for m, mean in means]


def _accuracy_only(cell: Cell) -> Entry:
    sample = describe(list(cell.accuracies.values()))
    spread = "" if sample.sd is None else f" ± {points(sample.sd)}"
    return Entry((f"{points(sample.mean)}{spread}",))


def _accuracy(table: Table, arm: Arm, column: Column) -> Entry:
    cell = table.cell(arm, column)
    if not cell.finished:
        return _without_number(cell)
    counts = [f"n = {len(cell.finished)}"]
    counts += [f"{len(runs)} {s}" for s in ("failed", "unfinished") if (runs := cell.having(s))]
    if missing := table.missing(arm, column):
        counts.append(f"{missing} missing")
    lines = [*_accuracy_only(cell).lines, ", ".join(counts)]
    if cell.tuned:
        lines.append(text((key.rpartition(".")[2], value) for key, value in cell.tuned))
    return Entry(tuple(lines), best=arm in highest(table, column))


def _shares(cell: Cell) -> list[str]:
    """What a cell costs, in percent of its dense twin: `0.87 % of parameters, 1.6 % of FLOPs`."""
    shares = {"parameters": LIVE_SHARE.mean(cell), "FLOPs": FLOPS_SHARE.mean(cell)}
    known = [f"{share:.3g} % of {name}" for name, share in shares.items() if share is not None]
    return [", ".join(known)] if known and cell.finished else []


def _without_number(cell: Cell) -> Entry:
    kind = status(cell)
    if failed := cell.having("failed"):
        error = failed[0].error or "no reason given"
        short = error if len(error) <= _SHORT else f"{error[:_SHORT]}…"
        return Entry((f"failed ({len(failed)})", short), kind=kind)
    if unfinished := cell.having("unfinished"):
        return Entry((f"unfinished ({len(unfinished)})", progress(unfinished[0])), kind=kind)
    return Entry(("missing",), kind=kind)


def _minus_reference(table: Table, arm: Arm, reference: Arm, column: Column) -> Entry:
    own, other = (table.cell(each, column).accuracies for each in (arm, reference))
    difference = paired(own, other)
    if arm == reference or difference.mean is None:
        return Entry((NONE,))
    mean = points(difference.mean, "+")
    if difference.low is None or difference.high is None:
        return Entry((mean,))
    interval = f"({points(difference.low, '+')} to {points(difference.high, '+')})"
    return Entry((f"{mean} {interval}",))
