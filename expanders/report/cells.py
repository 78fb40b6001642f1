"""Tables of runs: arms by degree, or by model.

An arm is a way to wire a network, with its options: a graph model, a scored wiring, a control, a
dense network. A cell holds the runs of one arm that differ in their seeds only. A table holds the
cells that differ in arm and degree (or model) only, and the dense twin, which has no degree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal, NamedTuple

from expanders.report.places import FlatSettings, Option
from expanders.report.run_records import RunRecord, RunState, Streams
from expanders.training import metrics

Kind = Literal["graph models", "scored wirings", "controls", "dense and thin"]


class Column(NamedTuple):
    """A degree or a model. `position` is the number that orders it: the degree, the depth."""

    position: float
    label: str


class Arm(NamedTuple):
    """A row of a table: how networks are wired, and what that looks at."""

    label: str
    kind: Kind
    graph: Option
    needs: tuple[str, ...] = ()

    @property
    def is_twin(self) -> bool:
        """Whether it is the dense twin."""
        return self == TWIN


TWIN = Arm("dense twin", "dense and thin", ("dense", ()))


@dataclass
class Cell:
    """The runs of one arm in one column, one for each choice of seeds.

    `tuned` are the settings that the validation images chose for it, `rejected` the cells of the
    other ones.
    """

    runs: dict[Streams, RunRecord] = field(default_factory=dict)
    tuned: FlatSettings = ()
    rejected: list["Cell"] = field(default_factory=list)

    @property
    def finished(self) -> list[RunRecord]:
        """Those that have an accuracy, in order of their seeds."""
        return self.having("finished")

    @property
    def accuracies(self) -> dict[Streams, float]:
        """Test accuracy by seeds."""
        return {record.streams: record.accuracy for record in self.finished}

    @property
    def validations(self) -> dict[Streams, float]:
        """Validation accuracy by seeds, of the finished runs that have one."""
        known = [(r.streams, r.summary.get(metrics.VAL_ACCURACY)) for r in self.finished]
        return {streams: value for streams, value in known if value is not None}

    @property
    def validation(self) -> float | None:
        """Mean validation accuracy of the finished runs, if they have any."""
        values = self.validations.values()
        return fmean(values) if values else None

    @property
    def failed_share(self) -> float:
        """Failed runs as a share of those that ended; those to come count for nothing."""
        failed, finished = len(self.having("failed")), len(self.finished)
        return failed / (failed + finished) if failed else 0.0

    @property
    def disconnected(self) -> bool:
        """Whether more than half of its layers' graphs fall into several components."""
        shares = [r.disconnected for r in self.finished if r.disconnected is not None]
        return bool(shares) and fmean(shares) > 0.5

    def having(self, state: RunState) -> list[RunRecord]:
        """The runs in a state, in order of their seeds."""
        return [r for _, r in sorted(self.runs.items(), key=_by_seeds) if r.state == state]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: model, or family of models, and data set.
        differs: settings that tell it from other tables with this title; may be empty.
        shared: all settings that its runs share.
        axis: what the columns are.
        arms: the rows in order, the dense twin last.
        columns: in order.
        cells: by arm and column; without those that no run belongs to.
    """

    title: str
    differs: str
    shared: str
    axis: Literal["degree", "model"]
    arms: tuple[Arm, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[Arm, Column], Cell]

    @property
    def sparse(self) -> tuple[Arm, ...]:
        """The arms without the dense twin."""
        return self.arms[:-1]

    def cell(self, arm: Arm, column: Column) -> Cell:
        """A cell of the grid, an empty one where there is no run."""
        return self.cells.get((arm, column), Cell())

    def grid(self) -> list[tuple[Arm, Column, Cell]]:
        """All cells; the dense twin once where it is the same for all degrees."""
        once = self.columns[:1] if self.axis == "degree" else self.columns
        places = [(arm, column) for arm in self.sparse for column in self.columns]
        places += [(TWIN, column) for column in once]
        return [(arm, column, self.cell(arm, column)) for arm, column in places]

    def missing(self, arm: Arm, column: Column) -> int:
        """Number of runs that a cell lacks: seeds that other arms of its column have run with.

        Where no edge depends on the graph seed, the other seeds count; elsewhere the runs of such
        arms say nothing of which graph seeds to expect.
        """
        expected = {streams for each in self.sparse for streams in self.cell(each, column).runs}
        there = self.cell(arm, column).runs
        if all(streams.graph is None for streams in there) and (there or arm.is_twin):
            return len({s.start for s in expected} - {s.start for s in there})
        return len({s for s in expected if s.graph is not None} - there.keys())


def _by_seeds(entry: tuple[Streams, RunRecord]) -> tuple[int, int, int]:
    streams = entry[0]
    return -1 if streams.graph is None else streams.graph, streams.init, streams.data
