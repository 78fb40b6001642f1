"""Train what a run has left to train, and write everything down in the run's folder."""

import logging
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expanders.data import Images
from expanders.files import write_json, write_json_lines, write_text
from expanders.runs import folders
from expanders.runs.console import epoch_line, layer_table, progress_bar, summary_table
from expanders.runs.predecessor import Predecessor
from expanders.runs.resume import Checkpoints, Saved
from expanders.runs.tracking import WandbRun, WandbSettings
from expanders.training import metrics
from expanders.training.history import Metrics
from expanders.training.memory import PeakMemory
from expanders.training.trainer import Trainer
from expanders.wiring.layer_report import Report

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All that one run needs, ready to start.

    Attributes:
        folder: where everything is written; it exists.
        config: resolved settings that define the run, as plain containers.
        report: of the network's layers.
        trainer: the network in training.
        test: images that are looked at once, at the end.
        wandb: how to log on Weights & Biases.
        checkpoints: where networks are kept.
        saved: the checkpoint that the run continues from, if it does.
        predecessor: the run that it starts from, if it does and is not continued.
        facts: what else belongs into the summary.
        memory: what measures the memory that the run needs.
        checkpoint_minutes: time between checkpoints within an epoch; there is one after each.
    """

    folder: Path
    config: Mapping[str, Any]
    report: Report
    trainer: Trainer
    test: Images
    wandb: WandbSettings
    checkpoints: Checkpoints
    saved: Saved | None = None
    predecessor: Predecessor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_minutes: float = math.inf
    memory: PeakMemory | None = None

    def execute(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write everything; returns the summary.

        Raises:
            DivergedError: if the loss became infinite or not a number; what was saved stays.
        """
        log.info("%s", layer_table(self.report, self.trainer.model))
        self._continue()
        write_json(self.folder / "graph.json", self.report.to_dict())
        tracker = WandbRun(self.wandb, self.folder, self.config, self._wandb_id())
        try:
            tracker.log_report(self.report)
            tracker.log_graphs(self.report, self.checkpoints.wiring)
            self._train(tracker)
            summary = self._summarise()
            if self.wandb.log_model:
                tracker.log_model(self.folder / folders.BEST, summary)
        except BaseException:
            tracker.finish(failed=True)
            raise
        tracker.finish(summary)
        self.checkpoints.check()
        folders.write_summary(self.folder, summary, self.checkpoints.run)
        log.info("%s", summary_table(summary))
        return summary

    def follow(self) -> None:
        """What every other process of a team does: train with the writer, and write nothing."""
        if self.predecessor is not None:
            self.predecessor.fill(self.trainer)
        if self.saved is not None:
            self.saved.restore(self.trainer)
        while not self.trainer.is_done:
            self.trainer.run_epoch()

    def _continue(self) -> None:
        """Take up the saved checkpoint, if there is one."""
        trainer = self.trainer
        if self.predecessor is not None:
            self.predecessor.start(trainer, self.checkpoints)
            self.predecessor = None  # it holds a second copy of the network
            self._write_history()
        if self.saved is None:
            return
        self.saved.restore(trainer)
        steps = f" and {trainer.steps} steps" if trainer.partial else ""
        log.info("Continuing after %d epochs%s, from %s", trainer.epoch, steps, self.saved.path)
        self.saved = None  # likewise
        self._write_history()
        self.checkpoints.check_best(trainer)

    def _train(self, tracker: WandbRun) -> None:
        """All epochs that are left, with a checkpoint after each."""
        trainer, checkpoints = self.trainer, self.checkpoints
        if trainer.epoch == 0 and trainer.steps == 0:
            checkpoints.save_last(trainer)
            checkpoints.save_best(trainer)  # epochs=0 ends with the network that it built
        while not trainer.is_done:
            row = self._epoch()
            tracker.log_epoch(row)  # before the checkpoint: twice at worst, but never lost
            checkpoints.save_last(trainer)  # from which best.pt can be written again
            if trainer.history.best_epoch == trainer.epoch:
                checkpoints.save_best(trainer)
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
        """The run's identity on W&B: the one that it had before, or a new one."""
        path = self.folder / "wandb_id"
        known = path.read_bytes().strip() if path.exists() else b""
        if re.fullmatch(rb"[\w-]{1,64}", known):
            return known.decode()
        if path.exists():
            log.warning("%s is damaged: what follows is another run on W&B", path)
        new = secrets.token_hex(4)
        write_text(path, new)
        return new

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
            metrics.WIRING_SECONDS: self.checkpoints.wiring.seconds,
            metrics.LIVE_FLOPS: self.report.live_flops,
            metrics.DENSE_FLOPS: self.report.dense_flops,
            **{metrics.graph(name): value for name, value in self.report.summary().items()},
            **self.trainer.history.summary,
            **self.facts,
            metrics.PEAK_MEMORY: self.memory.bytes() if self.memory else None,
        }
