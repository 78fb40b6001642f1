"""The checkpoints of a run's folder: written while it trains, and taken up when it continues."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from expanders.errors import SettingError
from expanders.runs import checkpoint, folders
from expanders.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: of the run.
        blueprint: how to build the dense network.
    """

    folder: Path
    blueprint: checkpoint.Blueprint

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    @property
    def best(self) -> Path:
        """The file of the network to use."""
        return self.folder / "best.pt"

    def save_best(self, trainer: Trainer) -> None:
        """Keep the present network as the one to use."""
        checkpoint.save(self.best, trainer.model, self.blueprint)

    def save_last(self, trainer: Trainer) -> None:
        """Write last.pt; the one before stays as previous.pt until the new one is whole.

        Raises:
            DivergedError: if the loss is not finite; what was saved before then stays.
        """
        last, new = self.folder / "last.pt", self.folder / "new.pt"
        checkpoint.save(new, trainer.model, self.blueprint, trainer.state_dict())
        if last.exists():
            last.replace(self.folder / "previous.pt")
        new.replace(last)
        self._saved = time.monotonic()

    @property
    def minutes(self) -> float:
        """Since `save_last` was called last, or since this object was made."""
        return (time.monotonic() - self._saved) / 60

    def restore(self, trainer: Trainer) -> Path | None:
        """Take up the newest checkpoint that is whole; returns its path, or None without one."""
        for part_of_a_file in self.folder.glob(".*.pt.*"):  # what a killed process was writing
            part_of_a_file.unlink()
        for path in filter(Path.exists, (self.folder / name for name in folders.CHECKPOINTS)):
            try:
                content = checkpoint.read(path)
            except SettingError:
                aside = path.replace(path.with_name(f"damaged-{path.name}"))
                log.warning("%s is damaged: put aside as %s", path, aside.name)
                continue
            checkpoint.load_state(trainer.model, content["state"], path)
            trainer.load_state_dict(content["training"])
            steps = f" and {trainer.steps} steps" if trainer.partial else ""
            log.info("Continuing after %d epochs%s, from %s", trainer.epoch, steps, path)
            return path
        if any(self.folder.glob("damaged-*.pt")):
            log.warning("No checkpoint in %s is whole: starting over", self.folder)
        return None

    def restore_best(self, trainer: Trainer) -> None:
        """Fill the network with the one to use, at the end of training.

        Raises:
            SettingError: if it cannot be had any more.
        """
        try:
            content = checkpoint.read(self.best)
        except SettingError:
            if trainer.best_epoch != trainer.epoch:
                remedy = "is damaged or missing; restart=true trains again"
                raise SettingError("hydra.run.dir", self.best, remedy) from None
            log.warning("%s is damaged: written again, as the last epoch was the best", self.best)
            self.save_best(trainer)
        else:
            checkpoint.load_state(trainer.model, content["state"], self.best)
