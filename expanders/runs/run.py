"""Train what a run has left to train, and write everything down in the run's folder."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from expanders.data import Images
from expanders.errors import SettingError
from expanders.files import write_json, write_json_lines, write_text
from expanders.runs import checkpoint, folders
from expanders.runs.console import layer_table, summary_table
from expanders.runs.tracking import WandbRun, WandbSettings
from expanders.training import metrics
from expanders.training.trainer import Metrics, Trainer, evaluate
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

    def execute(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write everything; returns the summary.

        Raises:
            DivergedError: if the loss became infinite or not a number; what was saved stays.
        """
        log.info("%s", layer_table(self.report, self.trainer.model))
        self._continue()
        self.trainer.team.wait()  # the others read the same checkpoint,
        self.trainer.team.wait()  # and have done so before there is another one
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
        self.trainer.team.wait()
        self._continue()
        self.trainer.team.wait()
        while self.trainer.epoch < self.trainer.settings.epochs:
            self.trainer.run_epoch()

    def _train(self, tracker: WandbRun) -> None:
        trainer = self.trainer
        if trainer.epoch == 0 and trainer.part is None:
            self._save_best()  # epochs=0 ends with the network that it built
            self._save_last()
        while trainer.epoch < trainer.settings.epochs:
            with _progress(trainer) as advance:
                row = trainer.run_epoch(self._saving_now_and_then(advance))
            tracker.log_epoch(row)  # before the checkpoint: twice at worst, but never lost
            if trainer.best_epoch == trainer.epoch:
                self._save_best()
            self._save_last()
            write_json_lines(self.folder / "metrics.jsonl", trainer.history)
            log.info("%s", _line(trainer))

    def _saving_now_and_then(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        """`advance`, and a checkpoint whenever enough minutes have passed since the last one."""
        saved = time.monotonic()

        def on_step(images: int) -> None:
            nonlocal saved
            advance(images)
            if time.monotonic() - saved >= 60 * self.checkpoint_minutes:
                self.trainer.finite_losses()  # what diverged must not replace what was saved
                self._save_last()
                saved = time.monotonic()

        return on_step

    def _save_best(self) -> None:
        checkpoint.save(self.folder / "best.pt", self.trainer.model, self.blueprint)

    def _save_last(self) -> None:
        """Write last.pt; the one before stays as previous.pt until the new one is whole."""
        last, new = self.folder / "last.pt", self.folder / "new.pt"
        checkpoint.save(new, self.trainer.model, self.blueprint, self.trainer.state_dict())
        if last.exists():
            last.replace(self.folder / "previous.pt")
        new.replace(last)

    def _continue(self) -> None:
        """Take up the newest checkpoint that is whole, if there is any."""
        for part_of_a_file in self.folder.glob(".*.pt.*"):  # what a killed process was writing
            part_of_a_file.unlink()
        for path in filter(Path.exists, (self.folder / name for name in folders.CHECKPOINTS)):
            try:
                content = checkpoint.read(path)
            except SettingError:
                aside = path.replace(path.with_name(f"damaged-{path.name}"))
                log.warning("%s is damaged: put aside as %s", path, aside.name)
                continue
            checkpoint.load_state(self.trainer.model, content["state"], path)
            self.trainer.load_state_dict(content["training"])
            part = self.trainer.part
            steps = f" and {len(part.losses)} steps" if part else ""
            log.info("Continuing after %d epochs%s, from %s", self.trainer.epoch, steps, path)
            if self.trainer.team.is_writer:
                write_json_lines(self.folder / "metrics.jsonl", self.trainer.history)
            return
        if any(self.folder.glob("damaged-*.pt")):
            log.warning("No checkpoint in %s is whole: starting over", self.folder)

    def _wandb_id(self) -> str:
        path = self.folder / "wandb_id"
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        return path.read_text()

    def _summarise(self) -> dict[str, Any]:
        """Evaluate the best network on the test images, which nothing has looked at so far."""
        trainer = self.trainer
        best = self.folder / "best.pt"
        try:
            checkpoint.load_state(trainer.model, checkpoint.read(best)["state"], best)
        except SettingError:
            if trainer.best_epoch != trainer.epoch:
                remedy = "is damaged or missing; restart=true trains again"
                raise SettingError("hydra.run.dir", best, remedy) from None
            log.warning("%s cannot be read: written again, as the last epoch was the best", best)
            self._save_best()
        parts: dict[metrics.Part, Images] = {"val": trainer.val, "test": self.test}
        results: Metrics = {}
        first_step = [
            row[metrics.FIRST_STEP_SECONDS]
            for row in trainer.history
            if metrics.FIRST_STEP_SECONDS in row
        ]
        for part, images in parts.items():
            if len(images):
                scores = evaluate(
                    trainer.model, images, trainer.transform, trainer.settings.batch_size
                )
                results |= {metrics.of(part, name): value for name, value in scores.items()}
        return results | {
            metrics.LIVE_PARAMETERS: self.report.live,
            metrics.DENSE_PARAMETERS: self.report.dense,
            **{metrics.graph(name): value for name, value in self.report.summary().items()},
            metrics.EPOCHS: trainer.epoch,
            metrics.BEST_EPOCH: trainer.best_epoch,
            metrics.SECONDS: sum(row[metrics.SECONDS] for row in trainer.history),
            metrics.FIRST_STEP_SECONDS: first_step[0] if first_step else None,
        }


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Any]:
    """A bar for one epoch, on a terminal; yields the function that advances it."""
    console = Console(stderr=True)
    label = f"epoch {trainer.epoch + 1}/{trainer.settings.epochs}"
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(label, total=len(trainer.train))
        yield lambda images: bar.advance(task, images)


def _line(trainer: Trainer) -> str:
    """The last epoch in one line."""
    row = trainer.history[-1]
    total = trainer.settings.epochs
    per_epoch = sum(each[metrics.SECONDS] for each in trainer.history) / trainer.epoch
    left = round(per_epoch * (total - trainer.epoch))
    parts = [
        f"epoch {trainer.epoch:>{len(str(total))}}/{total}",
        f"loss {row[metrics.TRAIN_LOSS]:.4f}",
        f"train {row[metrics.TRAIN_ACCURACY]:.2%}",
    ]
    if metrics.VAL_ACCURACY in row:
        parts.append(f"val {row[metrics.VAL_ACCURACY]:.2%}")
    parts += [
        f"lr {row[metrics.LEARNING_RATE]:.2g}",
        f"{row[metrics.IMAGES_PER_SECOND]:.0f} images/s",
        f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
    ]
    if metrics.FIRST_STEP_SECONDS in row:
        parts.append(f"first step {row[metrics.FIRST_STEP_SECONDS]:.1f} s")
    return "  ".join(parts)
