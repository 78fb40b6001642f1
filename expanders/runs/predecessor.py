"""Begin a run where another one ended: `start_from=RUN_DIR`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from expanders.errors import SettingError
from expanders.runs import checkpoint, folders
from expanders.runs.resume import Checkpoints, Saved
from expanders.training import metrics
from expanders.training.trainer import Trainer

log = logging.getLogger(__name__)

# In which a run may differ from the one that it starts from.
_MAY_DIFFER = ("epochs", "start_from", "schedule.", "choices.schedule")


@dataclass(frozen=True)
class Predecessor:
    """The run whose training another one goes on with.

    Attributes:
        folder: of that run; nothing in it is changed.
        saved: its last checkpoint.
        best: the content of its best.pt.
        rescheduled: how the new run's schedule differs, in words; empty if it does not.
    """

    folder: Path
    saved: Saved
    best: Mapping[str, Any]
    rescheduled: str

    def start(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        """Fill the trainer, and write the checkpoints of a run that has come so far.

        Raises:
            SettingError: if the network is another.
        """
        self.fill(trainer)
        log.info("Starting after %d epochs, from %s", trainer.epoch, self.folder)
        # In this order: a run that has a last.pt has the best.pt that it needs.
        checkpoints.adopt_best(self.best, trainer)
        checkpoints.save_last(trainer)

    def fill(self, trainer: Trainer) -> None:
        """Weights, optimizer, schedule and history of the run, and the rate of the new schedule."""
        self.check_schedule(trainer.schedule)
        self.saved.restore(trainer)
        groups, schedule = trainer.optimizer.param_groups, trainer.schedule
        if not isinstance(schedule, LambdaLR):  # one of another package, which goes on as it was
            return
        before = groups[0]["lr"]
        factors = [function(schedule.last_epoch) for function in schedule.lr_lambdas]
        for group, base, factor in zip(groups, schedule.base_lrs, factors, strict=True):
            group["lr"] = base * factor
        if groups[0]["lr"] != before:
            why = "the schedule is another, or depends on the number of epochs"
            log.warning("The rate goes on at %.3g, not at %.3g: %s", groups[0]["lr"], before, why)

    def check_schedule(self, schedule: LRScheduler) -> None:
        """Make sure that the rate can go on as `schedule` says.

        Raises:
            SettingError: if it is another, and either is no function of the epoch alone. PyTorch's
                own are not: what they have saved would win over the new settings.
        """
        is_function = isinstance(schedule, LambdaLR)
        if self.rescheduled and not (
            is_function and "lr_lambdas" in self.saved.content["training"]["schedule"]
        ):
            what = f"start_from cannot change it ({self.rescheduled})"
            remedy = f"{what}, but schedules of expanders and other LambdaLRs only"
            raise SettingError("schedule", type(schedule).__name__, remedy)


def facts_of(folder: Path) -> dict[str, Any]:
    """What the summary of a run says of the run in `folder`, which it started from."""
    settings = folders.settings_of(folder, "start_from")
    evaluated = folders.summary(folder, folders.run_digest(settings)) is not None
    earlier = settings.get("start_from") is not None  # which may have evaluated
    return {
        metrics.STARTED_FROM: str(folder),
        metrics.TEST_READ_BEFORE: evaluated or earlier,
    }


def read_predecessor(folder: Path, record: Mapping[str, Any]) -> Predecessor:
    """The run in `folder`, for a run of the settings in `record` to start from.

    Raises:
        SettingError: if there is no run at the end of an epoch, its files are damaged, or the
            settings differ in more than the number of epochs and the schedule, or ask for no more
            epochs than it has trained.
    """
    settings = folders.settings_of(folder, "start_from")
    run = folders.run_digest(settings)
    differing = folders.differences(settings, record)
    changes = [text for key, text in differing.items() if not key.startswith(_MAY_DIFFER)]
    if changes:
        remedy = f"has other settings ({'; '.join(changes)}); only epochs and schedule may differ"
        raise SettingError("start_from", folder, remedy)
    last = folder / "last.pt"
    content, best = checkpoint.read(last), checkpoint.read(folder / folders.BEST)
    origins = [checkpoint.origin_of(each) for each in (content, best)]
    if any(origin is None or origin.run != run for origin in origins) or "training" not in content:
        raise SettingError("start_from", folder, "holds checkpoints that are not this run's")
    if content["origin"]["steps"]:
        raise SettingError("start_from", folder, "stopped within an epoch; let it finish first")
    trained = len(content["training"]["history"])
    if record["epochs"] <= trained:
        remedy = f"{folder} has trained {trained}; choose more"
        raise SettingError("epochs", record["epochs"], remedy)
    keys = ("schedule.", "choices.schedule")
    rescheduled = "; ".join(text for key, text in differing.items() if key.startswith(keys))
    return Predecessor(folder, Saved(last, content), best, rescheduled)
