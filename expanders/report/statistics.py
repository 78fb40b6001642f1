"""Means, paired differences, slopes and components of variance, of accuracies by seeds."""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expanders.report.run_records import Streams

Accuracies = Mapping[Streams, float]


class Sample(NamedTuple):
    """Mean, sample standard deviation (n - 1 below; None for one value) and size of a sample."""

    mean: float
    sd: float | None
    n: int


class Difference(NamedTuple):
    """A mean difference of `n` pairs.

    Attributes:
        mean: of the differences; None without pairs.
        low, high: t confidence interval of the mean; None below two pairs, or if all are equal.
        p: of the two-sided t test that belongs to it; None where there is no interval.
        n: number of differences, after averaging over what they share.
        pinned: names of the streams that have one seed in all pairs, while another varies.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    pinned: tuple[str, ...] = ()


class Slope(NamedTuple):
    """A straight line through the means of arms: its slope, t interval, p of none, and its level.

    `low`, `high` and `p` are None where all means lie on the line; `arms` is their number.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    intercept: float
    arms: int


class Components(NamedTuple):
    """Variances of two crossed factors and of the rest; p of the F tests that a factor has none.

    `rows` and `columns` are the numbers of levels.
    """

    first: float
    second: float
    rest: float
    p_first: float | None
    p_second: float | None
    rows: int
    columns: int


def describe(values: Sequence[float]) -> Sample:
    """Mean and standard deviation of at least one value."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Sample(statistics.fmean(values), sd, len(values))


def paired(first: Accuracies, second: Accuracies, confidence: float = 0.95) -> Difference:
    """`first` minus `second` over the runs that share all their seeds.

    The interval is mean ± t s / sqrt(n), t the quantile of Student's distribution with n - 1
    degrees of freedom, s the standard deviation of the differences (Student, 1908). It needs
    independent differences, and pairs that share the seed of a stream are not. Where one stream's
    seeds meet several of another's, the differences are averaged over the seeds of each stream in
    turn, and the widest of the intervals of these averages is taken: each of them leaves out the
    variance from the streams that all averages share. If each seed of one stream meets each of
    another's once, the interval with the variance of both is taken where it is wider still, see
    `_crossed_interval`. Where one side draws no graph (a dense network, a wiring by magnitude),
    all graphs of one start are paired with its run.
    """
    drawn = [any(s.graph is not None for s in each) for each in (first, second)]
    differences: dict[Streams, float] = {}
    for streams in second if drawn[1] and not drawn[0] else first:
        start = streams._replace(graph=None)
        one, two = (streams if has_graph else start for has_graph in drawn)
        if one in first and two in second:
            differences[streams] = first[one] - second[two]
    candidates = []
    for name in Streams._fields:
        groups = defaultdict(list)
        for streams, difference in differences.items():
            groups[getattr(streams, name)].append(difference)
        averages = [statistics.fmean(group) for group in groups.values()]
        candidates.append(_interval(averages, confidence))
    widest = max(candidates, key=lambda each: (each.n > 1, _width(each), -each.n))
    if (table := _complete_table(differences)) is not None:
        both = _crossed_interval(table, confidence)
        if _width(both) > _width(widest):
            widest = both._replace(n=widest.n)
    return widest._replace(pinned=_pinned(list(differences)))


def slope(arms: Sequence[Sequence[tuple[float, float]]], confidence: float = 0.95) -> Slope | None:
    """The slope of y along x over arms, each given by the points (x, y) of its runs.

    The runs of an arm are a cluster: they share its wiring, and are not independent points. So the
    line is fitted to the means of the arms by least squares, and its interval and p come from
    Student's t with (arms - 2) degrees of freedom, however many seeds each arm has (Donald and
    Lang, Review of Economics and Statistics, 2007). None for fewer than three arms, or where all
    have the same x.
    """
    x, y = (np.array([statistics.fmean(p[i] for p in arm) for arm in arms if arm]) for i in (0, 1))
    if len(x) < 3 or np.ptp(x) <= 1e-12 * np.max(np.abs(x)):
        return None
    line = stats.linregress(x, y)
    value, intercept = float(line.slope), float(line.intercept)
    if np.allclose(y, intercept + value * x, rtol=0, atol=1e-12):
        return Slope(value, None, None, None, intercept, len(x))
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2)) * float(line.stderr)
    return Slope(value, value - half, value + half, float(line.pvalue), intercept, len(x))


def _width(difference: Difference) -> float:
    """The width of a difference's interval; -1 where it has none, below all widths."""
    if difference.low is None or difference.high is None:
        return -1.0
    return difference.high - difference.low


def _pinned(common: Sequence[Streams]) -> tuple[str, ...]:
    levels = {name: {getattr(s, name) for s in common} for name in Streams._fields}
    fixed = tuple(name for name, seeds in levels.items() if len(seeds) == 1 and None not in seeds)
    return fixed if any(len(seeds) > 1 for seeds in levels.values()) else ()


def _interval(differences: Sequence[float], confidence: float) -> Difference:
    if not differences:
        return Difference(None, None, None, None, 0)
    mean, sd, n = describe(differences)
    # Equal up to rounding: an interval without width would pass for certainty.
    if sd is None or sd <= 1e-12:
        return Difference(mean, None, None, None, n)
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(confidence)
    return Difference(mean, float(low), float(high), float(test.pvalue), n)


def _complete_table(differences: Accuracies) -> NDArray[np.float64] | None:
    """Differences by the seeds of two streams, each of the one with each of the other once."""
    for first, second in itertools.combinations(Streams._fields, 2):
        cells = {(getattr(s, first), getattr(s, second)): v for s, v in differences.items()}
        rows, columns = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
        is_complete = len(cells) == len(differences) == len(rows) * len(columns)
        if is_complete and min(len(rows), len(columns)) > 1:
            return np.array([[cells[row, column] for column in columns] for row in rows])
    return None


def _crossed_interval(table: NDArray[np.float64], confidence: float) -> Difference:
    """The t interval of the mean of an r x c table with random rows and columns.

    The variance of the mean is estimated by (MS_rows + MS_columns - MS_rest) / (r c), with the
    mean squares of `two_way`; MS_rows and MS_columns count as MS_rest where they are smaller. Its
    degrees of freedom are those of Satterthwaite (Biometrics Bulletin, 1946).
    """
    r, c = table.shape
    parts = two_way(table)
    ms_rows, ms_columns = c * parts.first + parts.rest, r * parts.second + parts.rest
    total = ms_rows + ms_columns - parts.rest
    mean, sd = float(table.mean()), (total / (r * c)) ** 0.5
    if sd <= 1e-12:
        return Difference(mean, None, None, None, table.size)
    squares = ms_rows**2 / (r - 1) + ms_columns**2 / (c - 1)
    freedom = total**2 / (squares + parts.rest**2 / ((r - 1) * (c - 1)))
    half = sd * float(stats.t.ppf((1 + confidence) / 2, freedom))
    p = 2 * float(stats.t.sf(abs(mean) / sd, freedom))
    return Difference(mean, mean - half, mean + half, p, table.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in the same order (Holm, 1979).

    The k-th smallest of m becomes the largest of (m - i) p_(i+1) for i < k, at most 1: rejecting
    where the result is at most alpha keeps the chance of any false rejection at alpha.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def two_way(values: NDArray[np.float64]) -> Components:
    """Components of variance of a table, rows one factor, columns the other, one value a cell.

    The model is y_ij = m + a_i + b_j + e_ij with independent random effects. From the mean squares
    of the analysis of variance of an r x c table, MS_a = c sum_i (y_i. - y..)^2 / (r - 1), MS_b
    likewise, MS_e of what is left with (r - 1)(c - 1) degrees of freedom,

        var e = MS_e,   var a = (MS_a - MS_e) / c,   var b = (MS_b - MS_e) / r,

    negative estimates being taken as 0 (Searle, Casella and McCulloch, Variance Components, 1992,
    chapter 4). Without replication e holds the interaction too. The F tests are MS_a / MS_e and
    MS_b / MS_e. Needs two rows and two columns.
    """
    r, c = values.shape
    mean = values.mean()
    rows = values.mean(axis=1) - mean
    columns = values.mean(axis=0) - mean
    left = values - mean - rows[:, None] - columns[None, :]
    ms_rows = c * float(rows @ rows) / (r - 1)
    ms_columns = r * float(columns @ columns) / (c - 1)
    ms_left = float(np.sum(left**2)) / ((r - 1) * (c - 1))
    if ms_left < 1e-20:  # nothing is left but rounding, and nothing to test against
        p_rows = p_columns = None
    else:
        p_rows = float(stats.f.sf(ms_rows / ms_left, r - 1, (r - 1) * (c - 1)))
        p_columns = float(stats.f.sf(ms_columns / ms_left, c - 1, (r - 1) * (c - 1)))
    return Components(
        first=max(0.0, (ms_rows - ms_left) / c),
        second=max(0.0, (ms_columns - ms_left) / r),
        rest=ms_left,
        p_first=p_rows,
        p_second=p_columns,
        rows=r,
        columns=c,
    )


def graph_and_start(accuracies: Accuracies) -> Components | None:
    """Variance split into the graph (first) and the start, that is init and data order (second).

    Needs runs in which several graph seeds each meet the same several starts. Where some are
    missing, the seed with the fewest runs is left out until the table is complete; None if there
    is no table of at least two by two.
    """
    cells = sorted((s.graph, s.start) for s in accuracies if s.graph is not None)
    while True:
        graphs, starts = Counter(g for g, _ in cells), Counter(s for _, s in cells)
        if min(len(graphs), len(starts)) < 2:
            return None
        incomplete: list[tuple[int, int, object]] = []  # number of runs, place in the cell, seed
        incomplete += [(n, 0, g) for g, n in graphs.items() if n < len(starts)]
        incomplete += [(n, 1, s) for s, n in starts.items() if n < len(graphs)]
        if not incomplete:
            break
        _, axis, seed = min(incomplete, key=lambda entry: entry[0])
        cells = [cell for cell in cells if cell[axis] != seed]
    table = [[accuracies[Streams(g, *s)] for s in sorted(starts)] for g in sorted(graphs)]
    return two_way(np.array(table))
