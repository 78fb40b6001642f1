"""What the runs of a table allow to say: differences, slopes, shares of variance."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from expanders.report.cells import Arm, Column, Table
from expanders.report.measures import AGAINST, Measure
from expanders.report.places import FlatSettings, labels
from expanders.report.statistics import (
    Components,
    Difference,
    Slope,
    graph_and_start,
    holm,
    paired,
    slope,
)

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE

Verdict = Literal["holds", "hint", "open", "untested"]


@dataclass(frozen=True)
class Comparison:
    """A difference between two arms of a column, or a slope along the arms of a dial.

    Attributes:
        name: `rreg − xnet`, or `rewired, along the normalised gap`.
        column: the place of the grid.
        arms: the two that are compared, or those of the dial.
        p: of its test; None where there is none.
        planned: whether it was declared in advance.
        adjusted_p: after Holm, for all comparisons of the table that were not; None if planned.
        difference: of the first arm minus the second.
        slope, measure: of the accuracy along a measure.
    """

    name: str
    column: Column
    arms: tuple[Arm, ...]
    p: float | None
    planned: bool
    adjusted_p: float | None = None
    difference: Difference | None = None
    slope: Slope | None = None
    measure: Measure | None = None

    @property
    def verdict(self) -> Verdict:
        """`holds` after correction, a `hint` without it, `open`, or `untested`."""
        if self.p is None:
            return "untested"
        if (self.p if self.adjusted_p is None else self.adjusted_p) <= LEVEL:
            return "holds"
        return "hint" if self.p <= LEVEL else "open"

    @property
    def says(self) -> str:
        """The verdict in a few words, which the report explains once."""
        if self.slope is not None and self.measure is not None:
            if self.p is None:
                return "all on one line"
            trend = "rises" if self.slope.value > 0 else "falls"
            found = f"accuracy {trend}"
        else:
            assert self.difference is not None
            if self.difference.mean is None:
                return "no pairs"
            if self.p is None:
                return "one pair" if self.difference.n == 1 else "all pairs differ equally"
            found = f"{self.arms[self.difference.mean < 0].label} is better"
        words = {"holds": found, "hint": f"a hint: {found}", "open": "cannot be told apart"}
        return words[self.verdict]


@dataclass(frozen=True)
class Split:
    """The variance of one cell, split into graph and start."""

    column: Column
    arm: Arm
    start: str
    components: Components

    @property
    def says(self) -> str:
        """Which of the two is seen to matter."""
        c = self.components
        if c.p_first is None:
            return "nothing is left to test against"
        tests = (("graph", c.p_first), (self.start, c.p_second))
        seen = [name for name, p in tests if p is not None and p <= LEVEL]
        return f"effect of {' and '.join(seen)}" if seen else "no effect seen"


def compare(table: Table, contrasts: Collection[str] = ()) -> list[Comparison]:
    """All pairs of arms with finished runs in every column, and the slopes along all dials.

    `contrasts` are those that were declared in advance: `rreg:xnet` for a difference, `rewired`
    for the slope along the normalised gap of a dial.
    """
    found = []
    for column in table.columns:
        found += _differences(table, column, contrasts)
        for dial, measure in itertools.product(dials(table), AGAINST.values()):
            found += _slopes(table, column, dial, measure, contrasts)
    explored = [each for each in found if each.p is not None and not each.planned]
    adjusted = iter(holm([each.p for each in explored if each.p is not None]))
    corrected = {id(each): next(adjusted) for each in explored}
    return [replace(each, adjusted_p=corrected.get(id(each))) for each in found]


def _differences(table: Table, column: Column, contrasts: Collection[str]) -> list[Comparison]:
    """All pairs of arms with finished runs in a column, in the order that contrasts have."""
    found = []
    known = {arm: table.cell(arm, column).accuracies for arm in table.arms}
    shown = [arm for arm, accuracies in known.items() if accuracies]
    for pair in itertools.combinations(shown, 2):
        turned = any(is_meant(table, contrast, pair[1], pair[0]) for contrast in contrasts)
        first, second = reversed(pair) if turned else pair
        planned = turned or any(is_meant(table, contrast, first, second) for contrast in contrasts)
        difference = paired(known[first], known[second], CONFIDENCE)
        name = difference_name(first, second)
        place = (name, column, (first, second), difference.p, planned)
        found.append(Comparison(*place, difference=difference))
    return found


def _slopes(
    table: Table, column: Column, dial: "Dial", measure: Measure, contrasts: Collection[str]
) -> list[Comparison]:
    """The slope along a dial in a column; if it leaves arms out, also the one over all of them."""
    found = []
    name = slope_name(dial, measure)
    is_planned = measure is AGAINST["gap"] and any(dial.is_called(each) for each in contrasts)
    points = along(table, column, dial.arms, measure)
    everywhere = along(table, column, dial.arms, measure, disconnected=True)
    variants = [(name, points, is_planned)]
    if len(everywhere) > len(points):
        variants.append((f"{name}, with disconnected arms", everywhere, False))
    for called, arms, planned in variants:
        line = slope(arms, CONFIDENCE)
        if line is not None:
            place = (called, column, dial.arms, line.p, planned)
            found.append(Comparison(*place, slope=line, measure=measure))
    return found


class Dial(NamedTuple):
    """Three or more arms that differ in one number of their graph model only."""

    label: str
    arms: tuple[Arm, ...]
    names: frozenset[str]

    def is_called(self, name: str) -> bool:
        """Whether `name` is its label, or its graph model's where no other dial has that label."""
        return name in self.names


def dials(table: Table) -> list[Dial]:
    """All dials of a table."""
    found: dict[tuple[str, str, FlatSettings], list[Arm]] = defaultdict(list)
    for arm in table.sparse:
        if arm.kind in ("graph models", "controls"):
            name, settings = arm.graph
            for key, value in settings:
                if isinstance(value, int | float) and not isinstance(value, bool):
                    others = tuple((k, v) for k, v in settings if k != key)
                    found[name, key, others].append(arm)
    turning = {key: arms for key, arms in found.items() if len(arms) > 2}
    label_of = labels((name, others) for name, _, others in turning)
    taken = set(label_of.values())
    return [
        Dial(label := label_of[name, others], tuple(arms), frozenset({label, *({name} - taken)}))
        for (name, _, others), arms in turning.items()
    ]


def along(
    table: Table,
    column: Column,
    arms: Sequence[Arm],
    measure: Measure,
    *,
    disconnected: bool = False,
) -> list[list[tuple[float, float]]]:
    """For each arm the measure and the accuracy of its runs.

    Arms of which more than half of the layers fall into several components are left out, unless
    `disconnected` asks for them, where the measure does not tell how well the parts expand: the
    gap of such a layer is 0, whatever they do.
    """
    found = []
    for arm in arms:
        cell = table.cell(arm, column)
        if measure.needs_connection and cell.disconnected and not disconnected:
            continue
        values = [(measure.value(record), record.accuracy) for record in cell.finished]
        found.append([(x, y) for x, y in values if x is not None])
    return [points for points in found if points]


def split(table: Table) -> list[Split]:
    """The cells of a table whose seeds allow to split their variance."""
    found = []
    for arm, column in itertools.product(table.sparse, table.columns):
        accuracies = table.cell(arm, column).accuracies
        components = graph_and_start(accuracies)
        if components is not None:
            inits = len({streams.init for streams in accuracies})
            data = len({streams.data for streams in accuracies})
            start = " and ".join(["init"] * (inits > 1) + ["data order"] * (data > 1))
            found.append(Split(column, arm, start, components))
    return found


def in_short(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons say something, in a sentence or two."""
    if not comparisons:
        return "There are no two arms with a finished run in one column: nothing to compare."
    tested = [each for each in comparisons if each.p is not None]
    if not tested:
        return (
            "No two arms share more than one seed: the differences may be chance, and nothing can "
            "be concluded from them. Run several seeds of each."
        )
    planned = [each for each in tested if each.planned]
    explored = [each for each in tested if not each.planned]
    words = []
    if planned:
        hold = [each.says for each in planned if each.verdict == "holds"]
        result = f": {'; '.join(hold)}" if hold else ""
        words.append(f"{len(hold)} of {len(planned)} contrasts declared in advance hold{result}.")
    if explored:
        alone = sum(each.verdict in ("holds", "hint") for each in explored)
        hold_too = sum(each.verdict == "holds" for each in explored)
        words.append(
            f"Of {len(explored)} exploratory comparisons, {alone} have an interval that leaves out "
            f"zero ({LEVEL * len(explored):.2g} would by chance if all arms were equal), and "
            f"{hold_too} hold after Holm's correction."
        )
    return " ".join(words)


def difference_name(first: Arm, second: Arm) -> str:
    """`rreg − xnet`."""
    return f"{first.label} − {second.label}"


def slope_name(dial: Dial, measure: Measure) -> str:
    """`rewired, along the normalised gap`."""
    return f"{dial.label}, along the {measure.heading}"


def is_meant(table: Table, contrast: str, first: Arm, second: Arm) -> bool:
    """Whether `first:second` is meant; labels may hold colons themselves."""
    sides = (names_of(table, arm) for arm in (first, second))
    return any(contrast == f"{one}:{two}" for one, two in itertools.product(*sides))


def names_of(table: Table, arm: Arm) -> set[str]:
    """What an arm is called: its label, a dense twin's option, and its graph model.

    The last is left out where another arm has that label, as the one with the model's defaults has.
    """
    names = {arm.label}
    if arm.graph[0] not in {other.label for other in table.arms}:
        names.add(arm.graph[0])
    if arm.is_twin:
        cells = [table.cell(arm, column) for column in table.columns]
        names |= {run.choices["graph"] for cell in cells for run in cell.runs.values()}
    return names
