"""What the runs of a table allow to say, and what they do not."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from expanders.report.grid import Column, Table
from expanders.report.read import DENSE
from expanders.report.statistics import Components, Difference, graph_and_start, holm, paired

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """Two graph models at the same place of the grid; `difference` is `first` minus `second`.

    `adjusted_p` is Holm's for all comparisons of the table; None where there is no test.
    """

    column: Column
    first: str
    second: str
    difference: Difference
    adjusted_p: float | None = None
    tests: int = 0

    @property
    def established(self) -> bool:
        """Whether the difference is there even after correction for the number of tests."""
        return self.adjusted_p is not None and self.adjusted_p <= LEVEL

    @property
    def alone(self) -> bool:
        """Whether its own interval leaves out zero."""
        return self.difference.p is not None and self.difference.p <= LEVEL

    @property
    def conclusion(self) -> str:
        """In one sentence, for readers without statistics."""
        return _conclusion(self) + _limits(self.difference)


@dataclass(frozen=True)
class Split:
    """The variance of one cell, split into graph and start."""

    column: Column
    row: str
    start: str
    components: Components

    @property
    def conclusion(self) -> str:
        """Which of the two is seen to matter."""
        c = self.components
        tests = [(name, p) for name, p in (("graph", c.p_first), (self.start, c.p_second))]
        if c.p_first is None:
            return "nothing is left beside the two effects: there is no error to test them against"
        seen = [name for name, p in tests if p is not None and p <= LEVEL]
        unseen = [name for name, p in tests if p is None or p > LEVEL]
        words = [f"an effect of the {name} is seen" for name in seen]
        words += [
            f"none of the {name} is (that does not prove that there is none)" for name in unseen
        ]
        return "; ".join(words)


def compare(table: Table) -> list[Comparison]:
    """All pairs of graph models, the dense twin among them, in every column."""
    found = []
    for column in table.columns:
        known = {row: table.cell(row, column).accuracies for row in (*table.rows, DENSE)}
        shown = [row for row, accuracies in known.items() if accuracies]
        for first, second in itertools.combinations(shown, 2):
            difference = paired(known[first], known[second], CONFIDENCE)
            found.append(Comparison(column, first, second, difference))
    tested = [each for each in found if each.difference.p is not None]
    adjusted = iter(holm([each.difference.p for each in tested if each.difference.p is not None]))
    return [
        replace(each, tests=len(tested), adjusted_p=next(adjusted))
        if each.difference.p is not None
        else each
        for each in found
    ]


def split(table: Table) -> list[Split]:
    """The cells of a table whose seeds allow to split their variance."""
    found = []
    for row, column in itertools.product(table.rows, table.columns):
        accuracies = table.cell(row, column).accuracies
        components = graph_and_start(accuracies)
        if components is not None:
            inits = len({streams.init for streams in accuracies})
            data = len({streams.data for streams in accuracies})
            start = " and ".join(["init"] * (inits > 1) + ["data order"] * (data > 1))
            found.append(Split(column, row, start, components))
    return found


def summary(comparisons: Sequence[Comparison]) -> str:
    """How many comparisons say something, in a sentence or two."""
    if not comparisons:
        return (
            "There are no two graph models with a finished run in one column: nothing to compare."
        )
    tested = [each for each in comparisons if each.adjusted_p is not None]
    if not tested:
        return (
            "No two graph models share more than one seed: the differences below may be chance, "
            "and nothing can be concluded from them. Run several seeds of each."
        )
    established = sum(each.established for each in tested)
    alone = sum(each.alone for each in tested)
    pairs = sorted({each.difference.n for each in tested})
    number = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    chance = LEVEL * len(tested)
    return (
        f"Of {len(tested)} comparisons over {number} paired seeds, {alone} have an interval that "
        f"leaves out zero ({chance:.2g} would be expected by chance if all models were equal), and "
        f"{established} hold after Holm's correction for {len(tested)} tests."
    )


def points(fraction: float, sign: str = "") -> str:
    """A difference of accuracies in percentage points: `+1.25`, `1.25`."""
    return f"{100 * fraction:{sign}.2f}".replace("-", "−")


def _conclusion(comparison: Comparison) -> str:
    difference = comparison.difference
    if difference.mean is None:
        return "No pair of runs shares its seeds: not compared."
    if difference.n == 1:
        return "One pair: says nothing of the variance, so nothing can be concluded."
    if difference.low is None or difference.high is None:
        return f"All {difference.n} differences are equal: no interval can be computed from them."
    low, high = points(difference.low, "+"), points(difference.high, "+")
    if not comparison.alone:
        return (
            f"Cannot be told apart with {difference.n} pairs; "
            f"anything from {low} to {high} points remains possible."
        )
    better, worse = comparison.first, comparison.second
    if difference.mean < 0:
        better, worse = worse, better
    ends = sorted((abs(difference.low), abs(difference.high)))
    found = f"{better} is better than {worse} by {points(ends[0])} to {points(ends[1])} points"
    if comparison.established:
        others = "" if comparison.tests == 1 else f", and that holds among {comparison.tests} tests"
        return f"{found}{others}."
    return f"{found} if seen alone, but not among {comparison.tests} tests: a hint, no more."


def _limits(difference: Difference) -> str:
    """What the interval does not cover because a stream had one seed."""
    names = {"graph": "graph", "init": "initialization", "data": "order of the data"}
    if not difference.pinned:
        return ""
    return f" Only for this one {' and '.join(names[name] for name in difference.pinned)}."
