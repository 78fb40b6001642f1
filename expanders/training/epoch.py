"""What an epoch has gathered so far, and its results."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from expanders.errors import DivergedError
from expanders.training import metrics


@dataclass
class PartialEpoch:
    """What the steps of an epoch have gathered so far; the sums stay on the device.

    Attributes:
        number: of the epoch, from 1.
        correct: images classified correctly, int64, a scalar.
        losses: the mean loss of each step done.
        seconds_before: that earlier processes have spent on this epoch.
    """

    number: int
    correct: Tensor
    losses: list[Tensor] = field(default_factory=list)
    seconds_before: float = 0.0

    def __post_init__(self) -> None:
        self.start_clock()

    @classmethod
    def start(cls, number: int, device: torch.device) -> Self:
        """An epoch without a step."""
        return cls(number, torch.zeros((), dtype=torch.int64, device=device))

    def start_clock(self) -> None:
        """What has passed since this object was made does not count."""
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Spent on this epoch, by earlier processes too."""
        return self.seconds_before + time.perf_counter() - self._started

    def add(self, loss: Tensor, correct: Tensor) -> None:
        """Add one step."""
        self.losses.append(loss)
        self.correct += correct

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to continue this epoch."""
        return {
            "number": self.number,
            "losses": self.losses,
            "correct": self.correct,
            "seconds": self.seconds,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> Self:
        """The epoch that `state_dict` was called on."""
        losses = [loss.to(device) for loss in state["losses"]]
        return cls(state["number"], state["correct"].to(device), losses, state["seconds"])

    def finite_losses(self) -> Tensor:
        """The losses of the steps, float64, on the CPU; waits for the device.

        Raises:
            DivergedError: if one of them is infinite or not a number.
        """
        losses = torch.stack(self.losses).double().cpu()
        if not bool(losses.isfinite().all()):
            step = int((~losses.isfinite()).nonzero()[0, 0]) + 1
            raise DivergedError(
                f"the training loss became {losses[step - 1].item()} in epoch {self.number}, "
                f"step {step}: try a smaller optimizer.lr, or clip_grad_norm=1"
            )
        return losses

    def results(self, num_images: int, batch_size: int) -> dict[str, Any]:
        """Means over the `num_images` of a whole epoch, of which the last batch may be smaller.

        Raises:
            DivergedError: if a loss is infinite or not a number.
        """
        losses = self.finite_losses()
        sizes = torch.full_like(losses, batch_size)
        sizes[-1] = num_images - batch_size * (len(losses) - 1)
        return {
            metrics.LOSS: float((losses * sizes).sum()) / num_images,
            metrics.ACCURACY: int(self.correct) / num_images,
        }
