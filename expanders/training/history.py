"""The epochs that a training has done."""

from typing import Any

from expanders.training import metrics

Metrics = dict[str, Any]


class History(list[Metrics]):
    """The metrics of each epoch, in order."""

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) of highest validation accuracy; without validation, the last."""
        if not self or metrics.VAL_ACCURACY not in self[-1]:
            return len(self)
        accuracies = [row[metrics.VAL_ACCURACY] for row in self]
        return accuracies.index(max(accuracies)) + 1

    @property
    def summary(self) -> Metrics:
        """The training in a few numbers."""
        first = [row for row in self if metrics.FIRST_STEP_SECONDS in row]
        return {
            metrics.EPOCHS: len(self),
            metrics.BEST_EPOCH: self.best_epoch,
            metrics.SECONDS: sum(row[metrics.SECONDS] for row in self),
            metrics.FIRST_STEP_SECONDS: first[0][metrics.FIRST_STEP_SECONDS] if first else None,
        }
