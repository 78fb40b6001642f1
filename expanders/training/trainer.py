"""Training and evaluation of one network, in plain PyTorch.

The random numbers of a step (order, augmentation, dropout) depend on the seed, the epoch and the
step only, so that a run that continues from a checkpoint sees what it would have seen.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from expanders.data import Images, Transform, batches
from expanders.errors import DivergedError
from expanders.seeds import derive
from expanders.training import metrics
from expanders.training.device import compiled
from expanders.training.processes import Team
from expanders.training.settings import Settings

Metrics = dict[str, Any]


@dataclass
class PartOfEpoch:
    """What an epoch has gathered so far; the sums stay on the device.

    Attributes:
        losses: one per step done.
        correct: images classified correctly.
        seconds: that earlier processes have spent on it.
    """

    losses: list[Tensor]
    correct: Tensor
    seconds: float = 0.0


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
        history: the metrics of the epochs done so far.
        part: what the present epoch has gathered, or None between epochs.
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
    history: list[Metrics] = field(default_factory=list)
    part: PartOfEpoch | None = None

    def __post_init__(self) -> None:
        self._device = self.train.pixels.device
        if self.settings.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._started = time.perf_counter()
        self._parallel = self.team.parallel(self.model)
        # Several processes on CPUs have not been tried compiled: `auto` then sees nothing to gain.
        num_images = self.settings.epochs * len(self.train) if self.team.size == 1 else 0
        self._compiled = compiled(self._parallel, self.settings.compile, self._device, num_images)
        self._first_step_seconds: float | None = None

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) of highest validation accuracy; without validation, the last."""
        if not self.history or metrics.VAL_ACCURACY not in self.history[-1]:
            return self.epoch
        accuracies = [row[metrics.VAL_ACCURACY] for row in self.history]
        return accuracies.index(max(accuracies)) + 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model to continue from here."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }
        if self.part is not None:
            state["part"] = vars(self.part) | {"seconds": self._seconds()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = list(state["history"])
        if "part" in state:
            device = self.train.pixels.device
            losses = [loss.to(device) for loss in state["part"]["losses"]]
            correct = state["part"]["correct"].to(device)
            self.part = PartOfEpoch(losses, correct, state["part"]["seconds"])

    def run_epoch(self, on_step: Callable[[int], object] = lambda images: None) -> Metrics:
        """Train to the end of an epoch, then evaluate; returns the metrics, also in `history`.

        `on_step` is called after every step with its number of images. Between steps the state can
        be saved. The process's first epoch has `first_step_seconds`, which include compiling.

        Raises:
            DivergedError: if the loss became infinite or not a number.
        """
        self._started = time.perf_counter() - (self.part.seconds if self.part else 0)
        is_first = self._first_step_seconds is None
        lr = self.optimizer.param_groups[0]["lr"]
        row: Metrics = {metrics.EPOCH: self.epoch + 1}
        row |= _named("train", self._train_epoch(on_step))
        seconds = self._seconds()
        if len(self.val):
            results = evaluate(self.model, self.val, self.transform, self.settings.batch_size)
            row |= _named("val", results)
        self.schedule.step()
        row |= {
            metrics.LEARNING_RATE: lr,
            metrics.IMAGES_PER_SECOND: len(self.train) / seconds,
            metrics.SECONDS: self._seconds(),
        }
        if is_first and self._first_step_seconds is not None:
            row[metrics.FIRST_STEP_SECONDS] = self._first_step_seconds
        self.history.append(row)
        return row

    @property
    def _images_per_epoch(self) -> int:
        """All, but for a last batch of one image, on which batch norm cannot train.

        Several processes leave out a last batch that has no image for each of them.
        """
        count = len(self.train)
        left_over = count % self.settings.batch_size
        return count - left_over if left_over < max(2, self.team.size) else count

    def _train_epoch(self, on_step: Callable[[int], object]) -> Metrics:
        device = self._device
        size = self.settings.batch_size
        order = torch.randperm(len(self.train), generator=self._generator("order"))
        order = order[: self._images_per_epoch]
        if self.part is None:
            self.part = PartOfEpoch([], torch.zeros((), dtype=torch.int64, device=device))
        done = len(self.part.losses)
        start = time.perf_counter()
        self.model.train()
        # Dropout draws from the global generators; the caller gets them back as they were.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            rest = batches(self.train, size, order[done * size :])
            for step, (pixels, labels) in enumerate(rest, start=done):
                torch.manual_seed(derive(self.seed, "dropout", self.epoch, step, self.team.rank))
                loss, correct = self._step(self._augmented(pixels, step), labels)
                self.part.losses.append(loss)
                self.part.correct += correct
                if self._first_step_seconds is None:
                    self._synchronise()
                    self._first_step_seconds = time.perf_counter() - start
                on_step(len(labels))
        return self._summarise()

    def _augmented(self, pixels: Tensor, step: int) -> Tensor:
        generator = self._generator("augmentation", step)
        height, width = pixels.shape[-2:]
        parameters = self.transform.draw(len(pixels), height, width, generator)
        pixels, parameters = self.team.share(pixels), self.team.share(parameters)
        return self._laid_out(self.transform.train(pixels, parameters))

    def _laid_out(self, inputs: Tensor) -> Tensor:
        if self.settings.channels_last:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step on a batch; `inputs` are this process's share of it.

        Returns the batch's mean loss and number of correct images, still on the device.
        """
        # What is compiled is compiled for one size: a smaller last batch would double the wait.
        whole = len(labels) == self.settings.batch_size
        images, labels = len(labels), self.team.share(labels)
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
            logits = (self._compiled if whole else self._parallel)(inputs)
            smoothing = self.settings.label_smoothing
            total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
            loss = total / images
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.team.size).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        correct = (logits.detach().argmax(1) == labels).sum()
        if self.team.size == 1:
            return loss.detach(), correct
        loss, correct = self.team.sum(torch.stack([loss.detach().double(), correct.double()]))
        return loss.float(), correct.long()

    def _seconds(self) -> float:
        """Spent on the present epoch, by earlier processes too."""
        return time.perf_counter() - self._started

    def finite_losses(self) -> Tensor:
        """The losses of the present epoch, on the CPU; waits for the device.

        Raises:
            DivergedError: if one of them is infinite or not a number.
        """
        assert self.part is not None
        losses = torch.stack(self.part.losses).double().cpu()
        if not bool(losses.isfinite().all()):
            step = int((~losses.isfinite()).nonzero()[0, 0]) + 1
            raise DivergedError(
                f"the training loss became {losses[step - 1].item()} in epoch {self.epoch + 1}, "
                f"step {step}: try a smaller optimizer.lr, or clip_grad_norm=1"
            )
        return losses

    def _summarise(self) -> Metrics:
        """Mean over images; the epoch's one synchronisation with the device is here."""
        assert self.part is not None
        losses = self.finite_losses()
        images = self._images_per_epoch
        sizes = torch.full_like(losses, self.settings.batch_size)
        sizes[-1] = images - self.settings.batch_size * (len(losses) - 1)
        results = {
            metrics.LOSS: float((losses * sizes).sum()) / images,
            metrics.ACCURACY: int(self.part.correct) / images,
        }
        self.part = None
        return results

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _generator(self, name: str, *names: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, name, self.epoch, *names))


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, transform: Transform, batch_size: int) -> Metrics:
    """Mean cross-entropy `loss` and `accuracy` (0 to 1) of `model` on `images`.

    The loss is None where it is not finite: early in training, a deep network whose running batch
    statistics have not settled can overflow in evaluation while its training goes well.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=images.pixels.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.pixels.device)
    for pixels, labels in batches(images, batch_size):
        logits = model(transform.eval(pixels))
        loss += F.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
    model.train(was_training)
    mean = float(loss) / len(images)
    return {
        metrics.LOSS: mean if math.isfinite(mean) else None,
        metrics.ACCURACY: int(correct) / len(images),
    }


def _named(part: metrics.Part, results: Metrics) -> Metrics:
    return {metrics.of(part, name): value for name, value in results.items()}
