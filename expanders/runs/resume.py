"""The checkpoints of a run's folder: written while it trains, and taken up when it continues."""

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expanders.errors import DamagedError, SettingError
from expanders.runs import checkpoint, folders
from expanders.runs.checkpoint import Origin
from expanders.training.arithmetic import Arithmetic
from expanders.training.processes import Team
from expanders.training.trainer import Trainer
from expanders.wiring.draw import Wiring

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """The checkpoint that a run continues from, or that its predecessor ended with."""

    path: Path
    content: Mapping[str, Any]

    @property
    def began(self) -> Mapping[str, Any]:
        """What was known when its run began; see `Checkpoints`."""
        began: Mapping[str, Any] = self.content["training"].get("began", {})
        return began

    @property
    def wiring(self) -> Wiring:
        """The edges of its network, which a run that continues does not choose again."""
        return checkpoint.wiring_of(self.content)

    @property
    def arithmetic(self) -> Arithmetic | None:
        """How its network was computed, where it says so."""
        return Arithmetic.from_state(self.content["training"].get("arithmetic"))

    def restore(self, trainer: Trainer) -> None:
        """Fill network, optimizer, schedule and history.

        Raises:
            SettingError: if the network is another.
        """
        checkpoint.load_state(trainer.model, self.content["state"], self.path)
        trainer.load_state_dict(self.content["training"])


def newest(folder: Path, run: str, team: Team) -> Saved | None:
    """The newest checkpoint of a run that is whole, or None without one.

    The writer of a team puts damaged ones aside; the others read what it chose.

    Args:
        folder: of the run.
        run: digest of the run's definition.
        team: the processes of the run, which all call this.

    Raises:
        SettingError: if a checkpoint is of another run, or cannot be read; nothing is then changed.
    """
    if team.size == 1:
        return _newest(folder, run)

    def name_of_newest() -> str | None:
        newest = _newest(folder, run)
        return None if newest is None else newest.path.name

    name = team.from_writer(name_of_newest)
    saved = None if name is None else Saved(folder / name, checkpoint.read(folder / name))
    team.wait()  # all have read before there is another one
    return saved


def _newest(folder: Path, run: str) -> Saved | None:
    for path in filter(Path.exists, (folder / name for name in folders.CHECKPOINTS)):
        try:
            content = checkpoint.read(path)
            _check_run(path, content, run)
            if "training" in content:
                return Saved(path, content)
            reason = "is not one to continue from"
        except DamagedError:
            reason = "is damaged"
        aside = _put_aside(path)
        log.warning("%s %s: put aside as %s", path, reason, aside.name)
    if any(folder.glob("damaged-*.pt")):
        log.warning("No checkpoint in %s is whole: starting over", folder)
    return None


def _check_run(path: Path, content: Mapping[str, Any], run: str) -> None:
    origin = checkpoint.origin_of(content)
    if origin is None or origin.run != run:
        whose = "does not say which run it is of" if origin is None else "is another run's"
        remedy = f"{whose}; remove it, or begin a run with its weights: checkpoint={path}"
        raise SettingError("hydra.run.dir", path, remedy)


def _put_aside(path: Path) -> Path:
    """Rename a file to `damaged-...`, never to a name that is taken."""
    numbers = ("", *(f"-{number}" for number in range(2, 1000)))
    names = (path.with_name(f"damaged-{path.stem}{number}{path.suffix}") for number in numbers)
    return path.rename(next(itertools.filterfalse(Path.exists, names)))


def check_images(before: Saved, images: str, root: object) -> None:
    """Make sure that a training goes on with the images that it began with.

    Args:
        before: the checkpoint that it goes on from.
        images: fingerprint of the images below `root`.
        root: of the data set, for the message.

    Raises:
        SettingError: if they are others.
    """
    if before.began.get("images", images) != images:
        what = f"the images are not those that the run in {before.path.parent} began with"
        remedy = "restart=true to train again, or dataset.name=NAME for another run"
        raise SettingError("dataset.root", root, f"{what}; bring them back, {remedy}")


class Checkpoints:
    """The checkpoints that one run writes.

    Args:
        folder: of the run.
        blueprint: how to build the dense network.
        run: digest of the run's definition.
        wiring: of the network.
        began: what is known only when the run begins, and is taken from its checkpoints when it
            continues: "images", the fingerprint of those that it is trained on, and "facts" of the
            run that it started from, for the summary.
        check: called before a file is written; raises if the folder is not this process's any more.
    """

    def __init__(
        self,
        folder: Path,
        blueprint: checkpoint.Blueprint,
        run: str,
        wiring: Wiring,
        began: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.blueprint, self.run, self.wiring = folder, blueprint, run, wiring
        self.began = began or {}
        self.check = check
        self._best, self._saved = folder / folders.BEST, time.monotonic()

    @property
    def minutes(self) -> float:
        """Since `save_last` was called last, or since this object was made."""
        return (time.monotonic() - self._saved) / 60

    def save_best(self, trainer: Trainer) -> None:
        """Keep the present network as the one to use."""
        self._save(self._best, trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Write last.pt; the one before stays as previous.pt until the new one is whole.

        Raises:
            DivergedError: if the loss is not finite; what was saved before then stays.
        """
        last, new = self.folder / "last.pt", self.folder / "new.pt"
        self._save(new, trainer, trainer.state_dict() | {"began": dict(self.began)})
        if last.exists():
            last.replace(self.folder / "previous.pt")
        new.replace(last)
        self._saved = time.monotonic()

    def _save(
        self, path: Path, trainer: Trainer, training: Mapping[str, Any] | None = None
    ) -> None:
        self.check()
        origin = Origin(self.run, trainer.epoch, trainer.steps)
        checkpoint.save(
            path, trainer.model, self.blueprint, training, origin=origin, wiring=self.wiring
        )

    def adopt_best(self, content: Mapping[str, Any], trainer: Trainer) -> None:
        """Keep the best network of the run that this one starts from.

        Raises:
            SettingError: if `content`, of a best.pt, is not of the trainer's best epoch.
        """
        origin = Origin(self.run, trainer.history.best_epoch)
        if content["origin"] != asdict(origin) | {"run": content["origin"]["run"]}:
            what = f"has a best.pt that is not of epoch {trainer.history.best_epoch}, its best one"
            raise SettingError("start_from", "this run", what)
        self.check()
        checkpoint.write(self._best, {**content, "origin": asdict(origin)})

    def check_best(self, trainer: Trainer) -> None:
        """Make sure, when a run continues, that the best network can be had at its end.

        Raises:
            SettingError: if it is lost, and no later epoch is certain to replace it.
        """
        origin = self._origin_of_best()
        # One that is ahead was saved before last.pt was damaged, and its epoch is trained again.
        if origin is not None and (
            origin.epoch == trainer.history.best_epoch or origin.epoch > trainer.epoch
        ):
            return
        if trainer.history.best_epoch == trainer.epoch and trainer.steps == 0:
            log.info("%s is not that of the best epoch: written again", self._best)
            self.save_best(trainer)
        elif trainer.is_done or (trainer.epoch > 0 and len(trainer.val)):
            raise self._lost(trainer)

    def restore_best(self, trainer: Trainer) -> None:
        """Fill the network with the one to use, at the end of training.

        Raises:
            SettingError: if it cannot be had any more.
        """
        if self._origin_of_best() != Origin(self.run, trainer.history.best_epoch):
            if trainer.history.best_epoch != trainer.epoch:
                raise self._lost(trainer)
            log.warning("%s is damaged: written again, as the last epoch was the best", self._best)
            self.save_best(trainer)
        checkpoint.load_state(trainer.model, checkpoint.read(self._best)["state"], self._best)

    def _origin_of_best(self) -> Origin | None:
        """The epoch of best.pt; None if it is missing, damaged, or not from the end of an epoch."""
        try:
            content = checkpoint.read(self._best) if self._best.exists() else {}
        except DamagedError:
            return None
        origin = checkpoint.origin_of(content)
        return origin if origin and origin.run == self.run and not origin.steps else None

    def _lost(self, trainer: Trainer) -> SettingError:
        what = f"is damaged, missing, or not of epoch {trainer.history.best_epoch}, the best one"
        return SettingError("hydra.run.dir", self._best, f"{what}; restart=true trains again")
