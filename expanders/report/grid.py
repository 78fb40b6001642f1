"""Runs arranged in tables as in the paper."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, get_args

from expanders import graphs
from expanders.graphs import controls
from expanders.report.cells import TWIN, Arm, Cell, Column, Kind, Table
from expanders.report.places import (
    FlatSettings,
    Group,
    Option,
    Place,
    differing,
    graph_defaults,
    labels,
    places_of,
    text,
)
from expanders.report.run_records import RunRecord, Skipped

_PAPER_ORDER = ("rreg", "xnet", "random")
_BEST_STATE = ("finished", "unfinished", "failed")


@dataclass(frozen=True)
class _Draft:
    """The runs of a table-to-be, and what it has in common."""

    group: Group
    policy: FlatSettings
    sparse: Sequence[Place]
    dense: Sequence[Place]

    @property
    def axis(self) -> Literal["degree", "model"]:
        degrees = {place.degree for place in self.sparse}
        return "degree" if len(degrees) > 1 or (len(self.models) == 1 and degrees) else "model"

    @property
    def shared(self) -> FlatSettings:
        return *self.group.context, *self.policy

    @property
    def models(self) -> dict[Option, None]:
        return dict.fromkeys(place.model for place in (*self.sparse, *self.dense))


def arrange(
    records: Sequence[RunRecord], tuned: Collection[str] = ()
) -> tuple[list[Table], list[Skipped]]:
    """The tables that hold all runs, and the runs left out since they repeat another one.

    Runs of a cell that differ in the settings `tuned` only are cut down to those of one value: of
    the values with the smallest share of failed runs, the one with the best mean validation
    accuracy over the seeds that these values share, or over all their runs if they share none.
    """
    places = _same_streams(places_of(records, tuned))
    needs = {p.graph: p.record.needs for p in places if p.record.needs}
    naming = _Naming(
        graphs=labels((p.graph for p in places), graph_defaults(records)),
        models=labels(p.model for p in places),
        needs=needs,
        controls={p.graph for p in places if _is_control(p)},
    )
    drafts = _drafts(places)
    copies: list[Skipped] = []
    tables = [
        _table(draft, naming, differs, copies)
        for draft, differs in zip(drafts, _what_differs(drafts), strict=True)
    ]
    tables.sort(key=lambda table: (table.title, table.differs))
    return tables, list(dict.fromkeys(copies))


def _same_streams(places: Sequence[Place]) -> list[Place]:
    """No graph seed for runs that have not wired yet, where others of their arm depend on none."""
    with_degree = [p for p in places if not p.record.is_twin]
    undrawn = {p.graph for p in with_degree if p.record.streams.graph is None}
    known = []
    for each in places:
        if each.graph in undrawn:
            streams = each.record.streams._replace(graph=None)
            each = each._replace(record=replace(each.record, streams=streams))
        known.append(each)
    return known


def _drafts(places: Sequence[Place]) -> list[_Draft]:
    """One per group and degree policy, or per model where there are several degrees too."""
    sparse, dense = defaultdict(list), defaultdict(list)
    for each in places:
        if each.record.is_twin:
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
            both = [[e for e in all_ if e.model == model] for all_ in (members, dense[group])]
            drafts.append(_Draft(group, policy, *both))
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
    needs: Mapping[Option, tuple[str, ...]]
    controls: Collection[Option]

    def arm(self, place: Place) -> Arm:
        if place.record.is_twin:
            return TWIN
        needs = self.needs.get(place.graph, ())
        kind = _kind(place, needs, place.graph in self.controls)
        return Arm(self.graphs[place.graph], kind, place.graph, needs)

    def column(self, place: Place, axis: str) -> Column:
        if axis == "model":
            depth = re.search(r"\d+", place.model[0])
            return Column(int(depth[0][:9]) if depth else 0, self.models[place.model])
        numbers = [value for _, value in place.degree]
        return Column(numbers[0] if numbers else 0, degree_label(place.degree))


def _kind(place: Place, needs: Sequence[str], is_control: bool) -> Kind:
    """The group of arms that a run belongs to, by its graph and what its wiring looked at."""
    if not place.record.is_wired:
        return "dense and thin"
    if needs:
        return "scored wirings"
    return "controls" if is_control else "graph models"


def _is_control(place: Place) -> bool:
    """Whether a graph is a control: one of ours, or one whose YAML file says so."""
    function = getattr(graphs, place.graph[0], None)
    is_ours = getattr(function, "__module__", "") == controls.__name__
    return is_ours or place.record.config["graph"].get("control") is True


def degree_label(degree: FlatSettings) -> str:
    """`degree 3` for the constant degree; the name of the number for other policies."""
    words = (f"{'degree' if key == 'value' else key} {value:g}" for key, value in degree)
    return ", ".join(words)


def _table(draft: _Draft, naming: _Naming, differs: str, copies: list[Skipped]) -> Table:
    axis = draft.axis
    found: dict[tuple[Arm, Column], list[Place]] = defaultdict(list)
    for each in draft.sparse:
        found[naming.arm(each), naming.column(each, axis)].append(each)
    sparse_columns = {column for _, column in found}
    for each in draft.dense:
        for column in [naming.column(each, axis)] if axis == "model" else sparse_columns:
            found[TWIN, column].append(each)
    arms = {arm for arm, _ in found} - {TWIN}
    model = next(iter(draft.models))
    name = draft.group.family if len(draft.models) > 1 else naming.models[model]
    degrees = {degree_label(each.degree) for each in draft.sparse}
    at = f", {degrees.pop()}" if axis == "model" and len(degrees) == 1 else ""
    return Table(
        title=f"{name} on {draft.group.dataset}{at}",
        differs=differs,
        shared=text(draft.shared),
        axis=axis,
        arms=(*sorted(arms, key=_order), TWIN),
        columns=tuple(sorted({column for _, column in found})),
        cells={key: _cell(places, copies) for key, places in found.items()},
    )


def _cell(places: Sequence[Place], copies: list[Skipped]) -> Cell:
    """The cell of these runs, with the settings that the validation images choose."""
    candidates: dict[FlatSettings, Cell] = {}
    for each in places:
        cell = candidates.setdefault(each.tuned, Cell(tuned=each.tuned))
        _add(cell, each.record, copies)
    cells = list(candidates.values())
    chosen = _best(cells)
    chosen.rejected = [other for other in cells if other is not chosen]
    return chosen


def _best(cells: Sequence[Cell]) -> Cell:
    """The cell that the validation images choose, as `arrange` says.

    Seeds that failed, or have not run yet, must not make a value look better than it is.
    """
    known = [cell for cell in cells if cell.validations]
    if not known:
        return max(cells, key=lambda cell: len(cell.finished))
    least = min(cell.failed_share for cell in known)
    sound = [cell for cell in known if cell.failed_share == least]
    shared = set.intersection(*(set(cell.validations) for cell in sound))

    def rank(cell: Cell) -> tuple[float, int]:
        values = [v for streams, v in cell.validations.items() if not shared or streams in shared]
        return fmean(values), len(cell.finished)

    return max(sound, key=rank)


def _add(cell: Cell, record: RunRecord, copies: list[Skipped]) -> None:
    """Put a run into its cell; of two with the same seeds the one that came further stays."""
    other = cell.runs.get(record.streams)
    if other is None:
        cell.runs[record.streams] = record
        return
    used, left = sorted((other, record), key=lambda each: _BEST_STATE.index(each.state))
    cell.runs[record.streams] = used
    reason = f"repeats {used.folder}: all settings and seeds that it depends on are the same"
    copies.append(Skipped(left.folder, reason))


def _order(arm: Arm) -> tuple[int, int, str, list[tuple[str, bool, object]]]:
    """By kind; the paper's graph models first, then by name and settings, numbers by size."""
    name, settings = arm.graph
    kind = get_args(Kind).index(arm.kind)
    rank = _PAPER_ORDER.index(name) if name in _PAPER_ORDER else len(_PAPER_ORDER)
    ordered = [(k, isinstance(v, str), "" if v is None else v) for k, v in settings]
    return kind, rank, name, ordered
