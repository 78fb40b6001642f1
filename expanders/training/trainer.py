"""Training and evaluation of one network, in plain PyTorch.

The random numbers of a step (order, augmentation, dropout) depend on the seed, the epoch and the
step only, so that a run that continues from a checkpoint sees what it would have seen.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from expanders.data import Images, Transform, batches
from expanders.errors import SettingError
from expanders.seeds import Name, derive
from expanders.training import metrics
from expanders.training.arithmetic import Arithmetic, executions, keep_executions
from expanders.training.device import chosen_precision
from expanders.training.epoch import PartialEpoch
from expanders.training.history import History, Metrics
from expanders.training.processes import Team
from expanders.training.settings import Settings
from expanders.training.step import Stepper
from expanders.wiring.fold import fold

log = logging.getLogger(__name__)

_FEW_CLASSES = 20  # of so many or fewer, five guesses say little


@dataclass
class Trainer:
    """A network in training, with all that changes from epoch to epoch.

    Attributes:
        model, optimizer, schedule: of one network, on the device of the images.
        train, val: images; `val` may be empty.
        transform: from stored pixels to inputs.
        settings: how to train.
        seed: of order, augmentation and dropout.
        team: the processes that train together; each has all images and computes its share.
        before: how the training that goes on here was computed so far.
        history: the metrics of the epochs done so far.
        partial: the epoch that is under way, or None between epochs.

    Raises:
        SettingError: if there are too few images for a step.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    train: Images
    val: Images
    transform: Transform
    settings: Settings
    seed: int
    team: Team = field(default_factory=Team)
    before: Arithmetic | None = None
    history: History = field(default_factory=History)
    partial: PartialEpoch | None = None

    def __post_init__(self) -> None:
        self._device = self.train.pixels.device
        if not self._images_per_epoch:
            remedy = f"has {len(self.train)} training images, too few for a step of batch norm"
            raise SettingError("dataset", "this one", f"{remedy}; choose another")
        num_images = self.settings.epochs * len(self.train)
        before = self.before
        if before and (before.device, before.processes) != (self._device.type, self.team.size):
            before = None  # `auto` decides by these, so it decides anew
        if before:
            keep_executions(self.model, before.execution)
        self._step = Stepper(
            self.model,
            self.optimizer,
            self.settings,
            self._device,
            num_images,
            self.team,
            before.compilation if before else None,
        )
        self._folds = self._step.compilation.norm == "native"
        self.arithmetic = Arithmetic(
            device=self._device.type,
            processes=self.team.size,
            threads=torch.get_num_threads(),
            precision=chosen_precision(self.settings.precision, self._device),
            channels_last=self.settings.channels_last,
            compilation=self._step.compilation,
            execution=executions(self.model),
        )

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    @property
    def steps(self) -> int:
        """Number of steps done of the epoch that is under way."""
        return len(self.partial.losses) if self.partial else 0

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.settings.epochs

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model to continue from here.

        Raises:
            DivergedError: if a loss became infinite or not a number: there is nothing to go on.
        """
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": list(self.history),
            "arithmetic": self.arithmetic.state_dict(),
        }
        if self.partial is not None:
            self.partial.finite_losses()
            state["partial_epoch"] = self.partial.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, and say what is computed otherwise now."""
        before = Arithmetic.from_state(state.get("arithmetic"))
        if before and (changes := self.arithmetic.changes_since(before)):
            what = "the bits may not be those of a run that nothing interrupted"
            log.warning("Computed otherwise than so far (%s): %s", "; ".join(changes), what)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = History(state["history"])
        if "partial_epoch" in state:
            self.partial = PartialEpoch.from_state(state["partial_epoch"], self._device)

    def run_epoch(self, on_step: Callable[[int], object] = lambda images: None) -> Metrics:
        """Train to the end of an epoch, then evaluate; returns the metrics, also in `history`.

        `on_step` is called after every step with its number of images. Between steps the state can
        be saved. The process's first epoch has `first_step_seconds`, which include compiling.

        Raises:
            DivergedError: if the loss became infinite or not a number.
        """
        is_first = self._step.first_seconds is None
        lr = self.optimizer.param_groups[0]["lr"]
        if self.partial is None:
            self.partial = PartialEpoch.start(self.epoch + 1, self._device)
        epoch = self.partial
        epoch.start_clock()
        self._train(epoch, on_step)
        results = epoch.results(self._images_per_epoch, self.settings.batch_size)
        seconds = epoch.seconds  # after the results, which wait for the device
        row: Metrics = {metrics.EPOCH: epoch.number} | _named("train", results)
        if len(self.val):
            row |= _named("val", self.evaluate(self.val))
        self.schedule.step()
        row |= {
            metrics.LEARNING_RATE: lr,
            metrics.IMAGES_PER_SECOND: len(self.train) / seconds,
            metrics.SECONDS: epoch.seconds,
        }
        if is_first and self._step.first_seconds is not None:
            row[metrics.FIRST_STEP_SECONDS] = self._step.first_seconds
        self.partial = None
        self.history.append(row)
        return row

    def evaluate(self, images: Images) -> Metrics:
        """The metrics of the present network on `images`; see the function `evaluate`.

        Where the C++ operator computes the norms of training, a folded copy is evaluated.
        """
        model = self.model
        if self._folds:
            model = fold(model)
            self._folds = isinstance(model, fx.GraphModule)  # fold has said why not; once will do
        return evaluate(model, images, self.transform, self.settings.batch_size)

    @property
    def _images_per_epoch(self) -> int:
        """All, but for a last batch of one image, on which batch norm cannot train.

        Several processes leave out a last batch that has no image for each of them.
        """
        count = len(self.train)
        left_over = count % self.settings.batch_size
        return count - left_over if left_over < max(2, self.team.size) else count

    def _train(self, epoch: PartialEpoch, on_step: Callable[[int], object]) -> None:
        """The steps that `epoch` lacks."""
        size, done = self.settings.batch_size, len(epoch.losses)
        order = torch.randperm(len(self.train), generator=self._generator("order"))
        rest = order[done * size : self._images_per_epoch]
        self.model.train()
        # Dropout draws from the global generators; the caller gets them back as they were.
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            own = batches(self.train, size, rest, self.team.share)
            for step, (pixels, labels) in enumerate(own, start=done):
                torch.manual_seed(derive(self.seed, "dropout", self.epoch, step, self.team.rank))
                epoch.add(*self._step(self._augmented(pixels, len(labels), step), labels))
                on_step(len(labels))

    def _augmented(self, pixels: Tensor, batch: int, step: int) -> Tensor:
        """This process's share of a batch; the parameters are drawn for the whole of it."""
        generator = self._generator("augmentation", step)
        height, width = pixels.shape[-2:]
        parameters = self.transform.draw(batch, height, width, generator)
        return self.transform.train(pixels, self.team.share(parameters))

    def _generator(self, name: Name, *names: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, name, self.epoch, *names))


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, transform: Transform, batch_size: int) -> Metrics:
    """Mean cross-entropy `loss` and `accuracy` (0 to 1) of `model` on `images`.

    Of networks with more than 20 classes also `top5_accuracy`: whether the right class is among
    the five of the largest logits.

    The loss is None where it is not finite: early in training, a deep network whose running batch
    statistics have not settled can overflow in evaluation while its training goes well.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=images.pixels.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.pixels.device)
    among_five = torch.zeros_like(correct)
    num_classes = 0
    for pixels, labels in batches(images, batch_size):
        logits = model(transform.eval(pixels))
        num_classes = logits.shape[1]
        loss += F.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
        if num_classes > _FEW_CLASSES:
            among_five += (logits.topk(5).indices == labels[:, None]).sum()
    model.train(was_training)
    mean = float(loss) / len(images)
    results = {
        metrics.LOSS: mean if math.isfinite(mean) else None,
        metrics.ACCURACY: int(correct) / len(images),
    }
    if num_classes > _FEW_CLASSES:
        results[metrics.TOP5_ACCURACY] = int(among_five) / len(images)
    return results


def _named(part: metrics.Part, results: Metrics) -> Metrics:
    return {metrics.of(part, name): value for name, value in results.items()}
