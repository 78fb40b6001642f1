"""What the report says: its sections, from the tables of a folder of runs."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expanders.report import conclusions, figures, tables
from expanders.report.grid import Table
from expanders.report.page import Part, Section
from expanders.report.read import Run, Skipped

_STATES = ("finished", "failed", "unfinished", "missing")

_METHODS = (
    "Accuracies are those on the test images, of the epoch with the best validation accuracy, in "
    "percent. Tables show the mean over the finished runs of a cell ± their sample standard "
    "deviation (n − 1 below), then n, then the live parameters of the whole network and their "
    "share of the dense twin's. Bold is the highest mean of a column among the sparse networks, "
    "whether the difference means anything or not: that is what the comparisons are for. Where "
    "graphs and starts (init and data order) were seeded apart, runs of a cell share seeds and are "
    "not independent; the split of their variance then says more than the ±.",
    "A cell holds the runs that differ in their seeds only. Two graph models are compared over "
    "pairs of runs with the same seeds, so with the same initial weights (before pruning), "
    "validation part, order of images and augmentation: what such a pair shares cancels. The "
    "interval is Student's for the mean of the paired differences (mean ± t s / √n, n − 1 degrees "
    "of freedom). It takes the differences for independent and normally distributed, which a "
    "handful of seeds cannot check. Where graphs, init or data order were seeded apart, pairs "
    "share seeds and are not independent: the differences are averaged over the graph seeds, over "
    "the init seeds and over the data seeds, and the widest of the three intervals is given, with "
    "the number of its averages.",
    "p (Holm) is the p value of the paired t test, corrected for all comparisons of its table "
    "after Holm (1979): at most 0.05 means that the difference would hardly arise by chance even "
    "once among so many. An interval is not corrected. That two models cannot be told apart does "
    "not show that they are equal: the interval says how far apart they may be.",
    "Where several graph seeds each met the same several starts, the variance of a cell is split "
    "by a two-way analysis of variance with random effects and one run per combination: var rest "
    "= MS rest, var graph = (MS graph − MS rest) / number of starts, var start = (MS start − MS "
    "rest) / number of graphs, negative values taken as 0 (Searle, Casella and McCulloch, Variance "
    "Components, 1992, chapter 4). The rest holds their interaction, and what a GPU adds.",
    "The normalised gap is 1 − σ2 of the normalised biadjacency matrix; the Ramanujan bound is "
    "√(dL − 1) + √(dR − 1) with the mean degrees. Both are means over the layers whose graph is "
    "neither kept dense nor complete.",
)


@dataclass(frozen=True)
class Chapter:
    """One table with all that follows from it."""

    table: Table
    comparisons: Sequence[conclusions.Comparison]
    splits: Sequence[conclusions.Split]

    @property
    def title(self) -> str:
        """The table's, with its settings."""
        settings = f" ({self.table.settings})" if self.table.settings else ""
        return f"{self.table.title}{settings}"


def chapters_of(found: Sequence[Table]) -> list[Chapter]:
    """One chapter per table."""
    return [Chapter(each, conclusions.compare(each), conclusions.split(each)) for each in found]


def sections_of(
    found: Sequence[Chapter], runs: Sequence[Run], skipped: Sequence[Skipped], root: Path
) -> Iterator[Section]:
    """All sections: an overview, one per table, what is not in them, and the methods.

    Folders are named as seen from `root`.
    """
    yield _overview(found, runs, skipped)
    rows = list(dict.fromkeys(row for chapter in found for row in chapter.table.rows))
    for index, chapter in enumerate(found, start=1):
        yield _of_table(chapter, rows, f"{index:02}-{slug(chapter.title)}")
    if unfinished := [run for run in runs if run.state != "finished"]:
        yield _not_finished(unfinished, root)
    if skipped:
        lines = [(os.path.relpath(each.path, root), each.reason) for each in skipped]
        table = tables.plain(["folder", "reason"], lines)
        yield Section("What was not used", [Part(table=table)])
    yield Section("How to read this report", [Part(paragraphs=_METHODS)])


def slug(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]


def _overview(found: Sequence[Chapter], runs: Sequence[Run], skipped: Sequence[Skipped]) -> Section:
    count: Counter[str] = Counter(run.state for run in runs)
    states = [f"{count[state]} {state}" for state in _STATES if state in count]
    text = f"{len(runs)} runs: {', '.join(states)}."
    if skipped:
        text += f" {len(skipped)} folders were not used; the reasons stand near the end."
    lines = []
    for chapter in found:
        cells = Counter(tables.status(cell) for cell in chapter.table.grid())
        counts = [str(cells[state]) for state in _STATES]
        lines.append((chapter.title, str(cells.total()), *counts))
    table = tables.plain(["table", "cells", *_STATES], lines, "number")
    return Section("Overview", [Part(paragraphs=[text], table=table)])


def _of_table(chapter: Chapter, rows: Sequence[str], prefix: str) -> Section:
    parts = [Part(table=tables.accuracies(chapter.table))]
    summary = [conclusions.summary(chapter.comparisons)]
    if chapter.comparisons:
        single = all(each.difference.n <= 1 for each in chapter.comparisons)
        show = tables.single_pairs if single else tables.comparisons
        compared = show(chapter.comparisons)
        parts.append(Part("Differences between graph models, in points", summary, compared))
    else:
        parts.append(Part("Differences between graph models", summary))
    if chapter.splits:
        heading = "Variance from graphs and from starts"
        parts.append(Part(heading, table=tables.splits(chapter.splits)))
    shared = [chapter.table.shared]
    parts.append(Part("Settings that all runs of this table share", shared))
    drawn = list(figures.pictures(chapter.table, rows, prefix))
    if drawn:
        parts.append(Part("Pictures", pictures=drawn))
    return Section(chapter.title, parts)


def _not_finished(runs: Sequence[Run], root: Path) -> Section:
    lines = [
        (
            os.path.relpath(run.folder, root),
            run.state,
            run.error if run.state == "failed" else tables.progress(run),
        )
        for run in runs
    ]
    text = (
        "Unfinished runs were cut off, or are still running. The command that started them "
        "continues them, and tries those again that failed."
    )
    table = tables.plain(["folder", "state", "reason, or how far it came"], lines)
    return Section("Runs that did not finish", [Part(paragraphs=[text], table=table)])
