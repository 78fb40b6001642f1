"""Tables of differences between arms, of slopes, and of what variance is due to."""

from collections.abc import Sequence

from expanders.report.comparisons import Comparison, Split
from expanders.report.entries import NONE, Entry, TextTable, named, points, short

_FIXED = "\N{NO-BREAK SPACE}"


def comparisons(found: Sequence[Comparison]) -> TextTable:
    """Differences between arms and slopes, with intervals and what they allow to say."""
    rows = []
    for each, before in zip(found, [None, *found], strict=False):
        new = before is None or before.column != each.column
        p = each.p if each.adjusted_p is None else each.adjusted_p
        numbers = [*_estimate(each), NONE if p is None else _p_value(p)]
        rows.append(
            [
                named(each.column.label if new else ""),
                Entry((each.name.replace(" − ", f" −{_FIXED}"),), kind="pair"),
                *(Entry((number,), best=each.verdict == "holds") for number in numbers),
                short(each.says),
            ]
        )
    p_of = "p" if any(each.planned for each in found) else "p (Holm)"
    header = ["", "difference or slope", "points", "95 % interval", "n", p_of, "verdict"]
    return TextTable(header, rows)


def single_pairs(found: Sequence[Comparison]) -> TextTable:
    """Differences that rest on one pair of runs at most: no more than their values, by column."""
    columns = list(dict.fromkeys(each.column for each in found))
    pairs = list(dict.fromkeys(each.name for each in found))
    values = {
        (each.name, each.column): points(each.difference.mean, "+")
        for each in found
        if each.difference is not None and each.difference.mean is not None
    }
    rows = [
        [named(pair), *(Entry((values.get((pair, column), NONE),)) for column in columns)]
        for pair in pairs
    ]
    return TextTable(["difference, points", *(column.label for column in columns)], rows)


def splits(found: Sequence[Split]) -> TextTable:
    """Variances split into graph and start, as standard deviations in points and as shares."""
    rows = []
    for each in found:
        c = each.components
        total = c.first + c.second + c.rest
        shares = [
            f"{points(v**0.5)} ({100 * v / total if total else 0:.0f} %)"
            for v in (c.first, c.second, c.rest)
        ]
        tests = [NONE if p is None else _p_value(p) for p in (c.p_first, c.p_second)]
        numbers = (f"{c.rows} × {c.columns}", *shares, *tests)
        rows.append(
            [named(each.column.label), named(each.arm.label)]
            + [Entry((number,)) for number in numbers]
            + [short(each.says)]
        )
    header = ["", "wiring", "graphs × starts", "sd of graph", "sd of start", "sd of the rest"]
    return TextTable([*header, "p of graph", "p of start", "verdict"], rows)


def _estimate(each: Comparison) -> tuple[str, str, str]:
    """Estimate, interval and number of a comparison; slopes are given for a step of the measure."""
    if each.slope is not None and each.measure is not None:
        step, found = each.measure.step, each.slope
        value, n = points(step * found.value, "+"), f"{found.arms} arms"
        ends = [None if end is None else step * end for end in (found.low, found.high)]
        value = f"{value} per {step:g}"
    else:
        assert each.difference is not None
        mean, n = each.difference.mean, str(each.difference.n)
        value = NONE if mean is None else points(mean, "+")
        ends = [each.difference.low, each.difference.high]
        if each.difference.pinned:
            n += f" (one {', one '.join(each.difference.pinned)})"
    low, high = ends
    if low is None or high is None:
        return value, NONE, n
    return value, f"{points(low, '+')} to {points(high, '+')}", n


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
