"""What a table shows of each cell beside its accuracy: one entry here is one column there.

The names of the numbers are those of `expanders.training.metrics`. A column appears where any run
of a table has the number, so that old runs do without new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from expanders.report.cells import Cell
from expanders.report.run_records import RunRecord
from expanders.training import metrics


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Attributes:
        heading: of its column, with the unit.
        value: the number of one run; None where the run does not have it.
        shown: how the mean over the runs of a cell is written.
        step: the change of this measure that slopes are given for; 0 where there are none.
        needs_connection: whether its value for a disconnected graph says nothing of how the parts
            expand.
        bound: a value to mark, if there is one.
    """

    heading: str
    value: Callable[[RunRecord], float | None]
    shown: Callable[[float], str] = "{:.3g}".format
    step: float = 0
    needs_connection: bool = False
    bound: float | None = None

    def mean(self, cell: Cell) -> float | None:
        """Over the finished runs of a cell that have it."""
        known = [v for record in cell.finished if (v := self.value(record)) is not None]
        return fmean(known) if known else None


def _named(name: str, scale: float = 1) -> Callable[[RunRecord], float | None]:
    def value(record: RunRecord) -> float | None:
        return scale * record.summary[name] if name in record.summary else None

    return value


def _percent(name: str, whole: str) -> Callable[[RunRecord], float | None]:
    def value(record: RunRecord) -> float | None:
        share = record.share(name, whole)
        return None if share is None else 100 * share

    return value


def _seconds(value: float) -> str:
    """`0.21 s`, `42 s`, `12.3 min`, `5.1 h`."""
    if value < 60:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 3600 else f"{value / 3600:.1f} h"


_count = "{:,.0f}".format

GAP = Measure("normalised gap", _named(metrics.NORMALISED_GAP), step=0.1, needs_connection=True)
RATIO = Measure(
    "σ2 / bound", _named(metrics.RAMANUJAN_RATIO), step=0.1, needs_connection=True, bound=1
)
EFFECTIVE = Measure("effective parameters", _named(metrics.EFFECTIVE_PARAMETERS), _count, step=1000)
LIVE = Measure("live parameters", _named(metrics.LIVE_PARAMETERS), _count)
LIVE_SHARE = Measure("% of dense", _percent(metrics.LIVE_PARAMETERS, metrics.DENSE_PARAMETERS))
FLOPS_SHARE = Measure("% of dense", _percent(metrics.LIVE_FLOPS, metrics.DENSE_FLOPS))
REACH = Measure("reach, %", _named(metrics.REACH, 100), step=10)
AGAINST = {"gap": GAP, "bound": RATIO, "effective": EFFECTIVE, "reach": REACH}
"""What accuracy is drawn against and its slopes are taken along, by the name of the picture."""

COSTS = (
    Measure("top-5 accuracy, %", _named(metrics.TEST_TOP5_ACCURACY, 100), "{:.2f}".format),
    LIVE,
    LIVE_SHARE,
    EFFECTIVE,
    Measure("MFLOP, forward", _named(metrics.LIVE_FLOPS, 1e-6)),
    FLOPS_SHARE,
    RATIO,
    Measure("to wire", _named(metrics.WIRING_SECONDS), _seconds),
    Measure("training", _named(metrics.SECONDS), _seconds),
    Measure("images/s", lambda record: record.images_per_second, _count),
    Measure("peak memory, MB", _named(metrics.PEAK_MEMORY, 1e-6), _count),
)

GRAPHS = (
    GAP,
    Measure("least gap", _named(metrics.LEAST_GAP)),
    RATIO,
    Measure("largest σ2 / bound", _named(metrics.LARGEST_RATIO)),
    Measure("layers within the bound, %", _named(metrics.RAMANUJAN_SHARE, 100)),
    Measure("disconnected layers", _named(metrics.DISCONNECTED_LAYERS)),
    Measure("dead outputs", _named(metrics.DEAD_OUTPUTS), _count),
    Measure("unused inputs", _named(metrics.UNUSED_INPUTS), _count),
    Measure("edges that only the floor keeps", _named(metrics.FLOOR_EDGES), _count),
    EFFECTIVE,
    Measure("effective weights, %", _named(metrics.EFFECTIVE_SHARE, 100)),
    REACH,
)
