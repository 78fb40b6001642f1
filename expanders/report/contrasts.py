"""Contrasts that were declared in advance: whether there are such, and why one is not computed."""

import itertools
from collections.abc import Collection, Sequence

from expanders.errors import SettingError
from expanders.report.cells import Cell, Column, Table
from expanders.report.comparisons import (
    Comparison,
    along,
    dials,
    difference_name,
    is_meant,
    names_of,
    slope_name,
)
from expanders.report.measures import AGAINST
from expanders.report.run_records import RunState


def check_contrasts(tables: Sequence[Table], contrasts: Collection[str]) -> None:
    """Refuse contrasts that no table has, and those of an arm with itself.

    Raises:
        SettingError: with the names that there are.
    """
    names = {name for table in tables for arm in table.arms for name in names_of(table, arm)}
    pairs = [(t, *pair) for t in tables for pair in itertools.permutations(t.arms, 2)]
    turning = [dial for table in tables for dial in dials(table)]
    for contrast in contrasts:
        if any(contrast == f"{name}:{name}" for name in names):
            raise SettingError("contrast", contrast, "an arm is not compared with itself")
        is_pair = any(is_meant(table, contrast, *pair) for table, *pair in pairs)
        if not is_pair and not any(dial.is_called(contrast) for dial in turning):
            there = f"the arms are {', '.join(sorted(names))}"
            called = ", ".join(sorted({dial.label for dial in turning})) or "none"
            remedy = f"is in no table; {there}; the dials: {called}"
            raise SettingError("contrast", contrast, remedy)


def not_computed(
    table: Table, found: Sequence[Comparison], contrasts: Collection[str]
) -> list[str]:
    """For each contrast of a table that has no place in `found`, in a column with runs: why.

    `rreg − xnet at degree 3: xnet has no finished run (1 failed)`
    """
    there = {(each.name, each.column) for each in found if each.planned}
    lines = []
    for contrast, column in itertools.product(contrasts, table.columns):
        reasons = _without_difference(table, column, contrast)
        reasons |= _without_slope(table, column, contrast)
        where = f" at {column.label}" if column.label else ""
        lines += [
            f"{name}{where}: {reason}"
            for name, reason in reasons.items()
            if (name, column) not in there
        ]
    return list(dict.fromkeys(lines))


def _without_difference(table: Table, column: Column, contrast: str) -> dict[str, str]:
    """Why pairs of arms that a contrast names have no difference in a column, by their names."""
    reasons = {}
    for pair in itertools.permutations(table.arms, 2):
        cells = {arm: table.cell(arm, column) for arm in pair}
        idle = [arm for arm, cell in cells.items() if not cell.finished]
        if is_meant(table, contrast, *pair) and idle and any(cell.runs for cell in cells.values()):
            words = [f"{arm.label} has no finished run ({_counts(cells[arm])})" for arm in idle]
            reasons[difference_name(*pair)] = ", ".join(words)
    return reasons


def _without_slope(table: Table, column: Column, contrast: str) -> dict[str, str]:
    """Why dials that a contrast names have no slope along the gap in a column, by their names."""
    gap = AGAINST["gap"]
    reasons = {}
    for dial in dials(table):
        if dial.is_called(contrast) and any(table.cell(arm, column).runs for arm in dial.arms):
            count = len(along(table, column, dial.arms, gap))
            few = f"needs three arms with a finished run and mostly connected graphs, has {count}"
            reason = few if count < 3 else f"all its arms have the same {gap.heading}"
            reasons[slope_name(dial, gap)] = reason
    return reasons


def _counts(cell: Cell) -> str:
    """Why a cell has no finished run: `2 failed, 1 unfinished`."""
    states: tuple[RunState, ...] = ("failed", "unfinished")
    counts = [f"{len(runs)} {state}" for state in states if (runs := cell.having(state))]
    return ", ".join(counts) or "none was begun"
