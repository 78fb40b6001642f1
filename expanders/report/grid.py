"""Runs arranged in tables as in the paper: graph models by degree, or by model.

A cell is a set of runs that differ in their seeds only. A table holds the cells that differ in
graph model and degree (or model) only, and the dense twin, which has no degree.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from expanders.report.places import Group, Option, Place, Settings, differing, labels, place, text
from expanders.report.read import DENSE, Run, Skipped, Streams

_PAPER_ORDER = ("rreg", "xnet", "random")
_BEST_STATE = ("finished", "unfinished", "failed")


class Column(NamedTuple):
    """A degree or a model. `position` is the number that orders it: the degree, the depth."""

    position: float
    label: str


@dataclass
class Cell:
    """The runs of one graph model in one column, one for each choice of seeds."""

    runs: dict[Streams, Run] = field(default_factory=dict)

    @property
    def finished(self) -> list[Run]:
        """Those that have an accuracy, in order of their seeds."""
        return [run for _, run in sorted(self.runs.items()) if run.state == "finished"]

    @property
    def accuracies(self) -> dict[Streams, float]:
        """Test accuracy by seeds."""
        return {run.streams: run.accuracy for run in self.finished}

    def having(self, state: Literal["failed", "unfinished"]) -> list[Run]:
        """The runs in a state."""
        return [run for _, run in sorted(self.runs.items()) if run.state == state]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: data set and model, or family of models.
        settings: what tells it from other tables with this title; may be empty.
        shared: all settings that its runs share.
        axis: what the columns are.
        rows: labels of the sparse graph models, in order.
        columns: in order.
        cells: by row and column; without those that no run belongs to.
        dense: the dense twin by column; the same for all degrees.
    """

    title: str
    settings: str
    shared: str
    axis: Literal["degree", "model"]
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]
    dense: Mapping[Column, Cell]

    def cell(self, row: str, column: Column) -> Cell:
        """A cell of the grid, an empty one where there is no run; row `dense` is the dense twin."""
        if row == DENSE:
            return self.dense.get(column, Cell())
        return self.cells.get((row, column), Cell())

    def grid(self) -> list[Cell]:
        """All cells, the dense twins last."""
        sparse = [self.cell(row, column) for row in self.rows for column in self.columns]
        columns = self.columns[:1] if self.axis == "degree" else self.columns
        return sparse + [self.cell(DENSE, column) for column in columns]

    def missing(self, row: str, column: Column) -> int:
        """Number of runs that a cell lacks beside the sparse cells of its column."""
        expected = {streams for each in self.rows for streams in self.cell(each, column).runs}
        there = self.cell(row, column).runs
        if row == DENSE:
            return len({s.start for s in expected} - {s.start for s in there})
        return len(expected - there.keys())


@dataclass(frozen=True)
class _Draft:
    """The runs of a table-to-be, and what it has in common."""

    group: Group
    policy: Settings
    sparse: Sequence[Place]
    dense: Sequence[Place]

    @property
    def axis(self) -> Literal["degree", "model"]:
        degrees = {place.degree for place in self.sparse}
        return "degree" if len(degrees) > 1 or (len(self.models) == 1 and degrees) else "model"

    @property
    def shared(self) -> Settings:
        return *self.group.context, *self.policy

    @property
    def models(self) -> dict[tuple[str, Settings], None]:
        return dict.fromkeys(place.model for place in (*self.sparse, *self.dense))


def arrange(runs: Iterable[Run]) -> tuple[list[Table], list[Skipped]]:
    """The tables that hold all runs, and the runs left out since another has the same seeds."""
    places = [place(run) for run in runs]
    naming = _Naming(labels(p.graph for p in places), labels(p.model for p in places))
    drafts = _drafts(places)
    described = _what_differs(drafts)
    copies: list[Skipped] = []
    tables = []
    for draft, settings in zip(drafts, described, strict=True):
        tables.append(_table(draft, naming, settings, copies))
    tables.sort(key=lambda table: (table.title, table.settings))
    return tables, list(dict.fromkeys(copies))


def _drafts(places: Sequence[Place]) -> list[_Draft]:
    """One per group and degree policy, or per model where there are several degrees too."""
    sparse, dense = defaultdict(list), defaultdict(list)
    for each in places:
        if each.graph[0] == DENSE:
            dense[each.group].append(each)
        else:
            sparse[each.group, each.policy].append(each)
    drafts = []
    for (group, policy), members in sparse.items():
        whole = _Draft(group, policy, members, dense[group])
        if whole.axis == "model":
            drafts.append(whole)
            continue
        for model in dict.fromkeys(each.model for each in members):
            parts = [[e for e in all_ if e.model == model] for all_ in (members, dense[group])]
            drafts.append(_Draft(group, policy, *parts))
    shown = {id(each) for draft in drafts for each in draft.dense}
    for group, twins in dense.items():
        if alone := [each for each in twins if id(each) not in shown]:
            drafts.append(_Draft(group, (), [], alone))
    return drafts


def _what_differs(drafts: Sequence[_Draft]) -> list[str]:
    """For each draft the settings in which drafts of the same data set and family differ."""
    variants = defaultdict(list)
    for draft in drafts:
        variants[draft.group[:2]].append(dict(draft.shared))
    telling = {key: differing(each) for key, each in variants.items()}
    return [text((k, v) for k, v in d.shared if k in telling[d.group[:2]]) for d in drafts]


@dataclass(frozen=True)
class _Naming:
    """How graph models and models are called in this report."""

    graphs: Mapping[Option, str]
    models: Mapping[Option, str]

    def row(self, place: Place) -> str:
        return self.graphs[place.graph]

    def column(self, place: Place, axis: str) -> Column:
        if axis == "model":
            depth = re.search(r"\d+", place.model[0])
            return Column(int(depth[0]) if depth else 0, self.models[place.model])
        numbers = [value for _, value in place.degree]
        return Column(numbers[0] if numbers else 0, degree_label(place.degree))


def degree_label(degree: Settings) -> str:
    """`degree 3` for the constant degree; the name of the number for other policies."""
    words = (f"{'degree' if key == 'value' else key} {value:g}" for key, value in degree)
    return ", ".join(words)


def _table(draft: _Draft, naming: _Naming, settings: str, copies: list[Skipped]) -> Table:
    axis = draft.axis
    cells: dict[tuple[str, Column], Cell] = defaultdict(Cell)
    for each in draft.sparse:
        _add(cells[naming.row(each), naming.column(each, axis)], each.run, copies)
    dense: dict[Column, Cell] = defaultdict(Cell)
    sparse_columns = {column for _, column in cells}
    for each in draft.dense:
        for column in [naming.column(each, axis)] if axis == "model" else sorted(sparse_columns):
            _add(dense[column], each.run, copies)
    options = sorted({each.graph for each in draft.sparse}, key=_paper_order)
    model = next(iter(draft.models))
    name = draft.group.family if len(draft.models) > 1 else naming.models[model]
    degrees = {each.degree for each in draft.sparse}
    words = [degree_label(each) for each in degrees if axis == "model"] + [settings]
    return Table(
        title=f"{name} on {draft.group.dataset}",
        settings=", ".join(word for word in words if word),
        shared=text(draft.shared),
        axis=axis,
        rows=tuple(naming.graphs[option] for option in options),
        columns=tuple(sorted(sparse_columns | set(dense))),
        cells=dict(cells),
        dense=dict(dense),
    )


def _add(cell: Cell, run: Run, copies: list[Skipped]) -> None:
    """Put a run into its cell; of two with the same seeds the one that came further stays."""
    other = cell.runs.get(run.streams)
    if other is None:
        cell.runs[run.streams] = run
        return
    used, left = sorted((other, run), key=lambda each: _BEST_STATE.index(each.state))
    cell.runs[run.streams] = used
    copies.append(Skipped(left.folder, f"has the settings and seeds of {used.folder}"))


def _paper_order(option: Option) -> tuple[int, str, list[tuple[str, bool, object]]]:
    """The paper's graph models first, then by name and settings, numbers by size."""
    name, settings = option
    rank = _PAPER_ORDER.index(name) if name in _PAPER_ORDER else len(_PAPER_ORDER)
    return rank, name, [(k, isinstance(v, str), "" if v is None else v) for k, v in settings]
