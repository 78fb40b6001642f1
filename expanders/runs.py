"""A run is a folder: it holds all that a run is, and a run that was cut off continues from it.

config.json     the resolved configuration      graph.json      the per-layer report
metrics.jsonl   one line per epoch              summary.json    the outcome; its presence is
best.pt         the network to use                              the sign that the run is done
last.pt         the network to continue from    wandb/          what W&B keeps locally
"""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from expanders import checkpoint
from expanders.data import Images
from expanders.errors import SettingError
from expanders.files import write_json, write_json_lines, write_text
from expanders.sparsification import Report
from expanders.tables import layer_table, summary_table
from expanders.tracking import WandbRun, WandbSettings
from expanders.train import Metrics, Trainer, evaluate

log = logging.getLogger(__name__)


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of the run in `folder`, or None if there is none that finished."""
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def clear(folder: Path) -> None:
    """Remove a run's results from its folder, the summary first."""
    for name in ("summary.json", "last.pt", "best.pt", "metrics.jsonl", "graph.json", "wandb_id"):
        (folder / name).unlink(missing_ok=True)


def check_unchanged(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        SettingError: with the settings that differ.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    old, new = (_flat(values) for values in (json.loads(path.read_text()), config))
    changes = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changes:
        remedy = "choose another folder, or restart=true to train again"
        raise SettingError(
            "hydra.run.dir",
            folder,
            f"holds a run with other settings ({'; '.join(changes)}); {remedy}",
        )


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
    """

    folder: Path
    config: Mapping[str, Any]
    blueprint: checkpoint.Blueprint
    report: Report
    trainer: Trainer
    test: Images
    wandb: WandbSettings

    def execute(self) -> dict[str, Any]:
        """Train what is left to train, evaluate, write everything; returns the summary.

        Raises:
            DivergedError: if the loss became infinite or not a number; what was saved stays.
        """
        log.info("%s", layer_table(self.report))
        self._continue()
        write_json(self.folder / "config.json", self.config)
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

    def _train(self, tracker: WandbRun) -> None:
        trainer = self.trainer
        if trainer.epoch == 0:
            self._save("best.pt", "last.pt")  # epochs=0 ends with the network that it built
        while trainer.epoch < trainer.settings.epochs:
            with _progress(trainer) as advance:
                metrics = trainer.run_epoch(advance)
            write_json_lines(self.folder / "metrics.jsonl", trainer.history)
            self._save(*(["best.pt"] if trainer.best_epoch == trainer.epoch else []), "last.pt")
            tracker.log_epoch(metrics)
            log.info("%s", _line(trainer))

    def _save(self, *names: str) -> None:
        for name in names:
            training = self.trainer.state_dict() if name == "last.pt" else None
            checkpoint.save(self.folder / name, self.trainer.model, self.blueprint, training)

    def _continue(self) -> None:
        path = self.folder / "last.pt"
        if not path.exists():
            return
        content = checkpoint.read(path)
        checkpoint.load_state(self.trainer.model, content["state"], path)
        self.trainer.load_state_dict(content["training"])
        log.info("Continuing after epoch %d of %s", self.trainer.epoch, path)

    def _wandb_id(self) -> str:
        path = self.folder / "wandb_id"
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        return path.read_text()

    def _summarise(self) -> dict[str, Any]:
        """Evaluate the best network on the test images, which nothing has looked at so far."""
        trainer = self.trainer
        best = self.folder / "best.pt"
        checkpoint.load_state(trainer.model, checkpoint.read(best)["state"], best)
        parts = {"val": trainer.val, "test": self.test}
        results: Metrics = {}
        for part, images in parts.items():
            if len(images):
                scores = evaluate(
                    trainer.model, images, trainer.transform, trainer.settings.batch_size
                )
                results |= {f"{part}/{name}": value for name, value in scores.items()}
        return results | {
            "params/live": self.report.live,
            "params/dense": self.report.dense,
            **{f"graph/{name}": value for name, value in self.report.summary().items()},
            "epochs": trainer.epoch,
            "best_epoch": trainer.best_epoch,
            "seconds": sum(metrics["seconds"] for metrics in trainer.history),
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
    metrics = trainer.history[-1]
    total = trainer.settings.epochs
    per_epoch = sum(m["seconds"] for m in trainer.history) / trainer.epoch
    left = round(per_epoch * (total - trainer.epoch))
    parts = [
        f"epoch {trainer.epoch:>{len(str(total))}}/{total}",
        f"loss {metrics['train/loss']:.4f}",
        f"train {metrics['train/accuracy']:.2%}",
    ]
    if "val/accuracy" in metrics:
        parts.append(f"val {metrics['val/accuracy']:.2%}")
    parts += [
        f"lr {metrics['lr']:.2g}",
        f"{metrics['images_per_second']:.0f} images/s",
        f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
    ]
    return "  ".join(parts)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
