"""Tables of the report: what stands in them, and how they look in HTML and Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from expanders.report.conclusions import Comparison, Split, points
from expanders.report.grid import Cell, Column, Table
from expanders.report.read import DENSE, Run, history
from expanders.report.statistics import describe
from expanders.training import metrics

_FIXED = "\N{NO-BREAK SPACE}"
_SHORT = 80  # characters of an error that a cell shows; the list of failed runs has all


@dataclass(frozen=True)
class Entry:
    """One entry of a table: lines of text, the first of them bold if `best`; `kind` is its style.

    `span` is the number of columns it takes.
    """

    lines: tuple[str, ...]
    best: bool = False
    kind: str = "number"
    span: int = 1


@dataclass(frozen=True)
class TextTable:
    """A table ready to be shown."""

    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]


def accuracies(table: Table) -> TextTable:
    """Accuracy by graph model and column as in the paper, the dense twin in the last line."""
    rows = []
    for row in table.rows:
        best = {column: _is_best(table, row, column) for column in table.columns}
        entries = [_entry(table, row, column, best[column]) for column in table.columns]
        rows.append([_name(row), *entries])
    if table.axis == "degree":  # one dense network for all degrees
        first = table.columns[0]
        entry = _entry(table, DENSE, first, best=False)
        dense = [Entry(entry.lines, entry.best, entry.kind, len(table.columns))]
    else:
        dense = [_entry(table, DENSE, column, best=False) for column in table.columns]
    rows.append([_name("dense twin"), *dense])
    return TextTable(["graph", *(column.label for column in table.columns)], rows)


def comparisons(found: Sequence[Comparison]) -> TextTable:
    """Differences between graph models, with intervals and what they allow to say."""
    rows = []
    before = None
    for each in found:
        difference = each.difference
        interval = "–"
        if difference.low is not None and difference.high is not None:
            interval = f"{points(difference.low, '+')} to {points(difference.high, '+')}"
        p = "–" if each.adjusted_p is None else _p_value(each.adjusted_p)
        mean = "–" if difference.mean is None else points(difference.mean, "+")
        numbers = (mean, interval, str(difference.n), p)
        rows.append(
            [
                Entry(("" if each.column == before else each.column.label,), kind="name"),
                Entry((_minus(each.first, each.second),), kind="pair"),
                *(Entry((text,), best=each.established) for text in numbers),
                Entry((each.conclusion,), kind="sentence"),
            ]
        )
        before = each.column
    header = ["", "difference", "mean", "95 % interval", "pairs", "p (Holm)", "what it says"]
    return TextTable(header, rows)


def single_pairs(found: Sequence[Comparison]) -> TextTable:
    """Differences that rest on one pair of runs at most: no more than their values, by column."""
    columns = list(dict.fromkeys(each.column for each in found))
    pairs = list(dict.fromkeys((each.first, each.second) for each in found))
    values = {
        (each.first, each.second, each.column): points(each.difference.mean, "+")
        for each in found
        if each.difference.mean is not None
    }
    rows = [
        [
            Entry((_minus(*pair),), kind="name"),
            *(Entry((values.get((*pair, column), "–"),)) for column in columns),
        ]
        for pair in pairs
    ]
    return TextTable(["difference", *(column.label for column in columns)], rows)


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
        tests = ["–" if p is None else _p_value(p) for p in (c.p_first, c.p_second)]
        rows.append(
            [
                Entry((each.column.label,), kind="name"),
                Entry((each.row,), kind="name"),
                Entry((f"{c.rows} × {c.columns}",)),
                *(Entry((share,)) for share in shares),
                *(Entry((test,)) for test in tests),
                Entry((each.conclusion,), kind="sentence"),
            ]
        )
    header = ["", "graph", "graphs × starts", "sd of graph", "sd of start", "sd of the rest"]
    return TextTable([*header, "p of graph", "p of start", "what it says"], rows)


def plain(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "text") -> TextTable:
    """A table of text, or of numbers with a name in front."""
    return TextTable(
        header,
        [[Entry((t,), kind=kind if i else "text") for i, t in enumerate(row)] for row in rows],
    )


def to_html(table: TextTable) -> str:
    """As an HTML table; all text is escaped."""
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in table.header)
    body = "\n".join(map(_html_row, table.rows))
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def to_markdown(table: TextTable) -> str:
    """As a table of GitHub's Markdown; an entry that spans columns is repeated in none of them."""
    lines = [_markdown_line(table.header), _markdown_line(["---"] * len(table.header))]
    for row in table.rows:
        texts: list[str] = []
        for entry in row:
            first, *rest = map(escape_markdown, entry.lines)
            first = f"**{first}**" if entry.best else first
            texts += ["<br>".join([first, *rest]), *[""] * (entry.span - 1)]
        lines.append(_markdown_line(texts))
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text on one line, with the characters that Markdown would take for its own kept."""
    for character in "\\|*_<>`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def parameters(cell: Cell) -> tuple[float, float] | None:
    """Live parameters of the whole network, and their share of its dense twin's.

    Means over the finished runs, since a graph model may draw the number of its edges too.
    """
    known = [
        (run.summary[metrics.LIVE_PARAMETERS], run.density)
        for run in cell.finished
        if run.density is not None
    ]
    if not known:
        return None
    live, share = zip(*known, strict=True)
    return fmean(live), fmean(share)


def status(cell: Cell) -> str:
    """`finished`, if a cell has a number, or else why not: `failed`, `unfinished`, `missing`."""
    if cell.finished:
        return "finished"
    return next((s for s in ("failed", "unfinished") if cell.having(s)), "missing")


def _is_best(table: Table, row: str, column: Column) -> bool:
    """Whether no sparse graph model has a higher mean, if there are several to choose from."""
    cells = {each: list(table.cell(each, column).accuracies.values()) for each in table.rows}
    means = {each: describe(values).mean for each, values in cells.items() if values}
    return len(means) > 1 and row in means and means[row] == max(means.values())


def _entry(table: Table, row: str, column: Column, best: bool) -> Entry:
    cell = table.cell(row, column)
    if not cell.finished:
        return _entry_without_number(cell)
    sample = describe(list(cell.accuracies.values()))
    spread = "" if sample.sd is None else f" ± {100 * sample.sd:.2f}"
    counts = [f"n = {sample.n}"]
    counts += [f"{len(runs)} {s}" for s in ("failed", "unfinished") if (runs := cell.having(s))]
    if missing := table.missing(row, column):
        counts.append(f"{missing} missing")
    lines = [f"{100 * sample.mean:.2f}{spread}", ", ".join(counts)]
    if (known := parameters(cell)) is not None:
        lines.append(f"{known[0]:,.0f} live, {100 * known[1]:.3g} %")
    return Entry(tuple(lines), best)


def _entry_without_number(cell: Cell) -> Entry:
    kind = status(cell)
    if failed := cell.having("failed"):
        error = failed[0].error or "no reason given"
        short = error if len(error) <= _SHORT else f"{error[:_SHORT]}…"
        return Entry((f"failed ({len(failed)})", short), kind=kind)
    if unfinished := cell.having("unfinished"):
        return Entry((f"unfinished ({len(unfinished)})", progress(unfinished[0])), kind=kind)
    return Entry(("missing",), kind=kind)


def progress(run: Run) -> str:
    """How far an unfinished run came: `epoch 12 of 300`."""
    rows = history(run)
    return f"epoch {rows[-1][metrics.EPOCH] if rows else 0} of {run.config.get('epochs', '?')}"


def _minus(first: str, second: str) -> str:
    """`first − second`, with a line break before the minus at most."""
    return f"{first.replace(' ', _FIXED)} −{_FIXED}{second.replace(' ', _FIXED)}"


def _name(text: str) -> Entry:
    return Entry((text,), kind="name")


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _html_row(row: Sequence[Entry]) -> str:
    start = "<tr class='group'>" if row[0].lines[0] else "<tr>"
    return f"{start}{''.join(map(_html_entry, row))}</tr>"


def _html_entry(entry: Entry) -> str:
    first, *rest = map(escape, entry.lines)
    first = f"<strong>{first}</strong>" if entry.best else first
    small = "".join(f"<br><small>{line}</small>" for line in rest)
    span = f" colspan='{entry.span}'" if entry.span > 1 else ""
    tag = "th scope='row'" if entry.kind == "name" else f"td class='{entry.kind}'"
    return f"<{tag}{span}>{first}{small}</{tag.split()[0]}>"


def _markdown_line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"
