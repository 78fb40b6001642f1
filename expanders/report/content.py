"""What the report says: its sections, from the tables of a folder of runs."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from expanders.report import comparison_tables, figures, tables
from expanders.report.cells import Arm, Column, Table
from expanders.report.comparisons import (
    Comparison,
    Split,
    compare,
    in_short,
    split,
)
from expanders.report.contrasts import not_computed
from expanders.report.entries import plain, points
from expanders.report.json_files import printable
from expanders.report.page import Block, Section
from expanders.report.run_records import RunRecord, Skipped
from expanders.report.statistics import describe

_STATES = ("finished", "failed", "unfinished", "missing")
_MANY = 12  # comparisons that are shown without being asked for

_ACCURACIES = (
    "Accuracies are those on the test images, of the epoch with the best validation accuracy, in "
    "percent: the mean over the finished runs of a cell ± their sample standard deviation, and n, "
    "the number of these runs. A cell holds the runs that differ in their seeds only. Bold is the "
    "highest mean of a column, the dense twin aside, whether the difference means anything or not: "
    "that is what the comparisons are for. An accuracy leads to the list of its runs.",
    "FLOPs are those of one image and a forward pass, two for a multiply-add. Seconds, speed and "
    "memory are those of the machine that trained; runs that shared it are slower.",
)
_TUNED = (
    "Mean accuracy on the validation images, in percent, of the finished runs of each value; those "
    "in bold are of the chosen settings. A value of which a larger share of runs failed comes "
    "after the others, whatever its mean; among equals the mean counts over the seeds that they "
    "share, or over all runs if they share none."
)
_COMPARISONS = (
    "Two arms are compared over pairs of runs with the same seeds, so with the same initial "
    "weights (before pruning), validation images, order of images and augmentation: what such a "
    "pair shares cancels. The interval is Student's for the mean of the paired differences, "
    "uncorrected. It takes the differences for independent and normally distributed, which a "
    "handful of seeds cannot check. Where graphs, init or data order were seeded apart, pairs "
    "share seeds: the differences are averaged over the seeds of each in turn, and the widest of "
    "the intervals is given, with the number n of its averages. Where each of several graphs met "
    "each of several starts once, the variance of the mean is (MS graph + MS start − MS rest) / "
    "number of runs, with Satterthwaite's degrees of freedom, if that interval is wider still.",
    "An arm “is better” if p is at most 0.05. The p of a contrast that was declared in advance is "
    "that of its own test; all other comparisons of a table are exploratory, and their p is "
    "corrected for their number after Holm (1979). “A hint” holds alone, but not among so many. "
    "“Cannot be told apart” does not show that two arms are equal: the interval says how far apart "
    "they may be.",
)
_SLOPES = (
    "A dial is a graph model of which three or more arms differ in one number. Its slope is that "
    "of a line through the means of its arms, with an interval from Student's t with (arms − 2) "
    "degrees of freedom: the runs of an arm share its kind of wiring, and are not independent "
    "points (Donald and Lang, 2007). A graph that falls into several components has the gap 0 and "
    "a large σ2, however well its parts expand. Arms of which more than half of the layers are "
    "such are drawn hollow, and have no part in slopes along the gap and σ2 / bound; those “with "
    "disconnected arms” are over all arms."
)
_VARIANCES = (
    "Where several graph seeds each met the same several starts, the variance of a cell is split "
    "by a two-way analysis of variance with random effects and one run per combination: var rest "
    "= MS rest, var graph = (MS graph − MS rest) / number of starts, var start = (MS start − MS "
    "rest) / number of graphs, negative values taken as 0 (Searle, Casella and McCulloch, Variance "
    "Components, 1992, chapter 4). The rest holds their interaction, and what a GPU adds. The ± of "
    "such a cell takes its runs for independent, and says less. That no effect is seen does not "
    "prove that there is none."
)
_MEASURES = (
    "The normalised gap is 1 − σ2 of the normalised biadjacency matrix; the Ramanujan bound is "
    "√(dL − 1) + √(dR − 1) with the mean degrees. Both are means over the layers whose graph is "
    "neither kept dense nor complete. Effective parameters lie on a path from input to output. "
    "Dead outputs and unused inputs are those of the network, over all its layers: output channels "
    "that no path from the network's input reaches, and input channels of a layer that do not lead "
    "to the network's output through it. What the console and graph.json call so for a single "
    "layer are its channels without any edge, of which there are at most as many. Reach is the "
    "share of the first layer's channels that a channel of a later layer, but the last, sees by "
    "any path, mean over all of these: what one layer does not mix, the next may, if their pieces "
    "do not line up."
)


@dataclass(frozen=True)
class Chapter:
    """One table with all that follows from it.

    `not_computed` are the contrasts declared in advance that have no comparison, with the reasons.
    """

    title: str
    table: Table
    comparisons: Sequence[Comparison]
    not_computed: Sequence[str]
    splits: Sequence[Split]
    anchors: tables.Anchors


def chapters_of(found: Sequence[Table], contrasts: Collection[str] = ()) -> list[Chapter]:
    """One chapter per table; `contrasts` were declared in advance."""
    namesakes = Counter(table.title for table in found)
    count: Counter[str] = Counter()
    chapters = []
    for index, table in enumerate(found, start=1):
        count[table.title] += 1
        number = f" ({count[table.title]} of {namesakes[table.title]})"
        title = table.title + (number if namesakes[table.title] > 1 else "")
        anchors = {
            (arm, column): f"runs-{index}-{place}"
            for place, (arm, column, cell) in enumerate(table.grid(), start=1)
            if cell.runs
        }
        compared = compare(table, contrasts)
        without = not_computed(table, compared, contrasts)
        chapters.append(Chapter(title, table, compared, without, split(table), anchors))
    return chapters


def sections_of(
    chapters: Sequence[Chapter],
    records: Sequence[RunRecord],
    skipped: Sequence[Skipped],
    root: Path,
    out: Path,
) -> Iterator[Section]:
    """All sections: an overview, one per table, the runs, what is not used, and how to read it.

    Folders are named as seen from `root`, and linked as seen from `out`.
    """
    yield _overview(chapters, records, skipped)
    arms = list(dict.fromkeys(arm for chapter in chapters for arm in chapter.table.sparse))
    drawn: set[str] = set()
    for index, chapter in enumerate(chapters, start=1):
        pictures = list(figures.pictures(chapter.table, arms, f"{index:02}-{_slug(chapter.title)}"))
        drawn |= {picture.view for picture in pictures}
        yield Section(chapter.title, list(_blocks(chapter, pictures)))
    if unfinished := [record for record in records if record.state != "finished"]:
        yield _not_finished(unfinished, root)
    if skipped:
        lines = [(_shown(each.path, root), each.reason) for each in skipped]
        yield Section("What was not used", [Block(table=plain(["path", "reason"], lines))])
    links = {str(r.folder): (_shown(r.folder, root), _address(r.folder, out)) for r in records}
    listed = [
        Block(chapter.title, table=tables.runs(chapter.table, chapter.anchors, links))
        for chapter in chapters
    ]
    yield Section("Runs", listed)
    yield _how_to_read(chapters, drawn)


def _overview(
    chapters: Sequence[Chapter], records: Sequence[RunRecord], skipped: Sequence[Skipped]
) -> Section:
    count: Counter[str] = Counter(record.state for record in records)
    states = [f"{count[state]} {state}" for state in _STATES if state in count]
    words = f"{len(records)} runs: {', '.join(states)}."
    if skipped:
        words += f" Not used: {len(skipped)}; the reasons stand near the end."
    lines = []
    for chapter in chapters:
        expected = [c for arm, _, c in chapter.table.grid() if c.runs or not arm.is_twin]
        cells = Counter(tables.status(cell) for cell in expected)
        counts = [str(cells[state]) for state in _STATES]
        lines.append((chapter.title, str(cells.total()), *counts))
    table = plain(["table", "cells", *_STATES], lines, "number")
    return Section("Overview", [Block(paragraphs=[words], table=table)])


def _blocks(chapter: Chapter, pictures: Sequence[figures.Picture]) -> Iterator[Block]:
    table = chapter.table
    paragraphs = [_only_degree(table)]
    paragraphs += [_thin(table, column) for column in table.columns]
    if table.differs:
        paragraphs.insert(0, f"What tells this table from its namesakes: {table.differs}.")
    opening = [*filter(None, paragraphs), in_short(chapter.comparisons)]
    costs = tables.side_by_side(table, chapter.anchors)
    if len(table.columns) > 1 or not costs.rows:
        yield Block(paragraphs=opening, table=tables.accuracies(table, chapter.anchors))
        opening = []
    if costs.rows:
        yield Block("Accuracy and what it costs", paragraphs=opening, table=costs)
    if (measured := tables.graph_measures(table)) is not None:
        yield Block("The graphs", table=measured)
    if (chosen := tables.tuning(table)) is not None:
        yield Block("Tuned settings", [_TUNED], chosen)
    planned = [each for each in chapter.comparisons if each.planned]
    explored = [each for each in chapter.comparisons if not each.planned]
    if planned or chapter.not_computed:
        lines = [f"Not computed: {line}." for line in chapter.not_computed]
        shown = comparison_tables.comparisons(planned) if planned else None
        yield Block("Contrasts declared in advance", lines, shown)
    if explored:
        single = all(each.difference and each.difference.n <= 1 for each in explored)
        show = comparison_tables.single_pairs if single else comparison_tables.comparisons
        many = len(explored) > _MANY
        heading = "Exploratory comparisons" + (f" ({len(explored)})" if many else "")
        yield Block(heading, table=show(explored), folded=many)
    if chapter.splits:
        heading = "Variance from graphs and from starts"
        yield Block(heading, table=comparison_tables.splits(chapter.splits))
    if pictures:
        yield Block("Pictures", pictures=pictures)
    yield Block("Settings that all runs of this table share", [table.shared], folded=True)


def _only_degree(table: Table) -> str:
    """The degree of a table that has no other, as its rows do not name it."""
    if table.axis != "degree" or len(table.columns) > 1 or not table.columns[0].label:
        return ""
    return f"All sparse networks of this table have {table.columns[0].label}."


def _thin(table: Table, column: Column) -> str:
    """A sentence where the thin dense network is the best of a column; otherwise nothing."""
    best = tables.highest(table, column)
    thin = [arm for arm in best if arm.kind == "dense and thin"]
    others = [a for a in table.sparse if a not in thin and table.cell(a, column).finished]
    if not thin or not others:
        return ""

    def mean(arm: Arm) -> float:
        return describe(list(table.cell(arm, column).accuracies.values())).mean

    second = max(others, key=mean)
    return (
        f"At {column.label} the thin dense network wins: {points(mean(thin[0]))} % with as "
        f"many parameters, against {points(mean(second))} % of {second.label}, the best "
        "sparse one."
    )


def _not_finished(records: Sequence[RunRecord], root: Path) -> Section:
    lines = [
        (
            _shown(record.folder, root),
            record.state,
            record.error if record.state == "failed" else tables.progress(record),
        )
        for record in records
    ]
    words = (
        "Unfinished runs were cut off, or are still running. The command that started them "
        "continues them, and tries those again that failed."
    )
    table = plain(["folder", "state", "reason, or how far it came"], lines)
    return Section("Runs that did not finish", [Block(paragraphs=[words], table=table)])


def _how_to_read(chapters: Sequence[Chapter], drawn: Collection[str]) -> Section:
    """What is said of the whole report, and only of what it holds."""
    paragraphs = list(_ACCURACIES)
    if any(chapter.comparisons for chapter in chapters):
        paragraphs += _COMPARISONS
    if any(each.slope for chapter in chapters for each in chapter.comparisons):
        paragraphs.append(_SLOPES)
    if any(chapter.splits for chapter in chapters):
        paragraphs.append(_VARIANCES)
    paragraphs.append(_MEASURES)
    if notes := [f"{figures.TITLES[view]}: {figures.NOTES[view]}" for view in figures.NOTES
                 if view in drawn]:  # fmt: skip
        paragraphs += notes
    return Section("How to read this report", [Block(paragraphs=paragraphs)])


def _slug(words: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60]


def _shown(path: Path, root: Path) -> str:
    """A path as seen from `root`, as text that any file can hold."""
    relative = os.fsencode(os.path.relpath(path, root))
    return printable(relative.decode(errors="backslashreplace"))


def _address(folder: Path, out: Path) -> str:
    """The relative address of a folder, for a page in `out`."""
    return quote(os.fsencode(os.path.relpath(folder.resolve(), out.resolve()))) + "/"
