"""Train what a run has left to train, and write everything down in the run's folder."""

import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expanders.data import Images
from expanders.files import write_json, write_json_lines, write_text
from expanders.runs import checkpoint
from expanders.runs.console import epoch_line, layer_table, progress_bar, summary_table
from expanders.runs.resume import Checkpoints
from expanders.runs.tracking import WandbRun, WandbSettings
from expanders.training import metrics
from expanders.training.trainer import Metrics, Trainer
from expanders.wiring.layer_report import Report

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All that one run needs, ready to start.

    Attributes:
        folder: where everything is written; it exists.
        config: resolved settings that define the run, as plain containers.
        blueprint: how to build the dense network.
        report: what `sparsify` did to it.
        trainer: the network in training.
        test: images that are looked at once, at the end.
        wandb: how to log on Weights & Biases.
        checkpoint_minutes: time between checkpoints within an epoch; there is one after each.
    """

    folder: Path
    config: Mapping[str, Any]
    blueprint: checkpoint.Blueprint
    report: Report
    trainer: Trainer
    test: Images
    wandb: WandbSettings
    checkpoint_minutes: float = math.inf

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.folder, self.blueprint)

    def execute(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write everything; returns the summary.

        Raises:
            DivergedError: if the loss became infinite or not a number; what was saved stays.
        """
        team = self.trainer.team
        log.info("%s", layer_table(self.report, self.trainer.model))
        if self.checkpoints.restore(self.trainer):
            self._write_history()
        team.wait()  # the others read the same checkpoint,
        team.wait()  # and have done so before there is another one
        write_json(self.folder / "graph.json", self.report.to_dict())
        tracker = WandbRun(self.wandb, self.folder, self.config, self._wandb_id())
        try:
            tracker.log_report(self.report)
            self._train(tracker)
            summary = self._summarise()
        except BaseException:
            tracker.finish(failed=True)
            raise
        tracker.finish(summary)
        write_json(self.folder / "summary.json", summary)
        log.info("%s", summary_table(summary))
        return summary

    def follow(self) -> None:
        """What every other process of a team does: train with the writer, and write nothing."""
        team = self.trainer.team
        team.wait()
        self.checkpoints.restore(self.trainer)
        team.wait()
        while not self.trainer.is_done:
            self.trainer.run_epoch()

    def _train(self, tracker: WandbRun) -> None:
        """All epochs that are left, with a checkpoint after each."""
        trainer, checkpoints = self.trainer, self.checkpoints
        if trainer.epoch == 0 and trainer.steps == 0:
            checkpoints.save_best(trainer)  # epochs=0 ends with the network that it built
            checkpoints.save_last(trainer)
        while not trainer.is_done:
            row = self._epoch()
            tracker.log_epoch(row)  # before the checkpoint: twice at worst, but never lost
            if trainer.best_epoch == trainer.epoch:
                checkpoints.save_best(trainer)
            checkpoints.save_last(trainer)
            self._write_history()
            log.info("%s", epoch_line(trainer))

    def _epoch(self) -> Metrics:
        """One epoch, with a bar on a terminal, and checkpoints within it where it is long."""
        with progress_bar(self.trainer) as advance:

            def after_step(images: int) -> None:
                advance(images)
                if self.checkpoints.minutes >= self.checkpoint_minutes:
                    self.checkpoints.save_last(self.trainer)

            return self.trainer.run_epoch(after_step)

    def _write_history(self) -> None:
        write_json_lines(self.folder / "metrics.jsonl", self.trainer.history)

    def _wandb_id(self) -> str:
        path = self.folder / "wandb_id"
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        return path.read_text()

    def _summarise(self) -> dict[str, Any]:
        """Evaluate the best network on the test images, which nothing has looked at so far."""
        self.checkpoints.restore_best(self.trainer)
        parts: dict[metrics.Part, Images] = {"val": self.trainer.val, "test": self.test}
        results: Metrics = {}
        for part, images in parts.items():
            if len(images):
                scores = self.trainer.evaluate(images)
                results |= {metrics.of(part, name): value for name, value in scores.items()}
        return results | {
            metrics.LIVE_PARAMETERS: self.report.live,
            metrics.DENSE_PARAMETERS: self.report.dense,
            **{metrics.graph(name): value for name, value in self.report.summary().items()},
            **self.trainer.summary,
        }
