"""Training and evaluation of one network, in plain PyTorch.

The random numbers of an epoch (order, augmentation, dropout) depend on the seed and the epoch's
number only, so that a run that continues from a checkpoint sees what it would have seen.
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
from expanders.errors import DivergedError, SettingError
from expanders.seeds import derive

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to train, apart from optimizer and schedule.

    Attributes:
        epochs: passes over the training images; 0 trains nothing.
        batch_size: images per step.
        label_smoothing: between 0 (off) and 1.
        clip_grad_norm: largest 2-norm of the whole gradient, or None for no clipping.

    Raises:
        SettingError: if a value is out of its range.
    """

    epochs: int
    batch_size: int
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise SettingError("epochs", self.epochs, "must be 0 (no training) or more")
        if self.batch_size < 2:
            raise SettingError(
                "batch_size", self.batch_size, "must be 2 or more: batch norm needs two images"
            )
        if not 0 <= self.label_smoothing < 1:
            raise SettingError("label_smoothing", self.label_smoothing, "must be in [0, 1)")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise SettingError(
                "clip_grad_norm", self.clip_grad_norm, "must be above 0, or null for no clipping"
            )


@dataclass
class Trainer:
    """A network in training, with all that changes from epoch to epoch.

    Attributes:
        model, optimizer, schedule: of one network, on the device of the images.
        train, val: images; `val` may be empty.
        transform: from stored pixels to inputs.
        settings: how to train.
        seed: of order, augmentation and dropout.
        history: the metrics of the epochs done so far.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    train: Images
    val: Images
    transform: Transform
    settings: Settings
    seed: int
    history: list[Metrics] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The first epoch (from 1) of highest validation accuracy; without validation, the last."""
        if not self.history or "val/accuracy" not in self.history[-1]:
            return self.epoch
        accuracies = [metrics["val/accuracy"] for metrics in self.history]
        return accuracies.index(max(accuracies)) + 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model to continue from here."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = list(state["history"])

    def run_epoch(self, on_step: Callable[[int], object] = lambda images: None) -> Metrics:
        """Train for one epoch, then evaluate; returns the metrics and appends them to `history`.

        `on_step` is called after every step with its number of images.

        Raises:
            DivergedError: if the loss became infinite or not a number.
        """
        start = time.perf_counter()
        lr = self.optimizer.param_groups[0]["lr"]
        metrics: Metrics = {"epoch": self.epoch + 1}
        metrics |= _named("train", self._train_epoch(on_step))
        seconds = time.perf_counter() - start
        if len(self.val):
            results = evaluate(self.model, self.val, self.transform, self.settings.batch_size)
            metrics |= _named("val", results)
        self.schedule.step()
        metrics |= {
            "lr": lr,
            "images_per_second": len(self.train) / seconds,
            "seconds": time.perf_counter() - start,
        }
        self.history.append(metrics)
        return metrics

    def _train_epoch(self, on_step: Callable[[int], object]) -> Metrics:
        device = self.train.pixels.device
        order = torch.randperm(len(self.train), generator=self._generator("order"))
        draws = self._generator("augmentation")
        height, width = self.train.pixels.shape[-2:]
        losses, sizes = [], []
        correct = torch.zeros((), dtype=torch.int64, device=device)
        self.model.train()
        # Dropout draws from the global generators; the caller gets them back as they were.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive(self.seed, "dropout", self.epoch))
            for pixels, labels in batches(self.train, self.settings.batch_size, order):
                parameters = self.transform.draw(len(labels), height, width, draws)
                inputs = self.transform.train(pixels, parameters)
                loss, logits = self._step(inputs, labels)
                losses.append(loss)
                sizes.append(len(labels))
                correct += (logits.argmax(1) == labels).sum()
                on_step(len(labels))
        return self._summarise(torch.stack(losses), sizes, correct)

    def _step(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step; returns loss and logits, detached and still on the device."""
        logits = self.model(inputs)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        return loss.detach(), logits.detach()

    def _summarise(self, losses: Tensor, sizes: list[int], correct: Tensor) -> Metrics:
        """Mean over images; the epoch's one synchronisation with the device is here."""
        values = losses.double().cpu()
        if not bool(values.isfinite().all()):
            step = int((~values.isfinite()).nonzero()[0, 0]) + 1
            raise DivergedError(
                f"the training loss became {values[step - 1].item()} in epoch {self.epoch + 1}, "
                f"step {step}: try a smaller optimizer.lr, or clip_grad_norm=1"
            )
        weights = torch.tensor(sizes, dtype=torch.float64)
        images = sum(sizes)
        return {
            "loss": float((values * weights).sum()) / images,
            "accuracy": int(correct) / images,
        }

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, name, self.epoch))


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
    return {"loss": mean if math.isfinite(mean) else None, "accuracy": int(correct) / len(images)}


def _named(part: str, metrics: Metrics) -> Metrics:
    return {f"{part}/{name}": value for name, value in metrics.items()}
