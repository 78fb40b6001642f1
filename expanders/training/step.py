"""One optimizer step on a batch: arithmetic, compilation, memory layout, and several processes."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from expanders.training.compilation import Compilation, chosen, compiled
from expanders.training.processes import Team
from expanders.training.settings import Settings


class Stepper:
    """Steps of one network's optimizer; each process of a team computes its share of a batch."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        settings: Settings,
        device: torch.device,
        num_images: int,
        team: Team,
        before: Compilation | None = None,
    ) -> None:
        """Prepare `model`, in place.

        `num_images` are those of all epochs together; `before` says how steps were compiled so far.
        """
        if settings.channels_last:
            model.to(memory_format=torch.channels_last)
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.device, self.team = device, team
        self.first_seconds: float | None = None  # of the first step, which may have to compile
        self._parallel = team.parallel(model)
        # Several processes on CPUs have not been tried compiled: `auto` then sees nothing to gain.
        gain = num_images if team.size == 1 else 0
        self.compilation = chosen(
            self._parallel, settings.compile, settings.norm, device, gain, before
        )
        self._compiled = compiled(self._parallel, self.compilation)

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch.

        Args:
            inputs: float, (share of N, channels, H, W): this process's share of the batch.
            labels: int64, (N,), of the whole batch.

        Returns:
            The batch's mean loss and number of correct images, still on the device.
        """
        start = time.perf_counter()
        if self.settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        own = self.team.share(labels)
        # What is compiled is compiled for one size: a smaller last batch would double the wait.
        whole = len(labels) == self.settings.batch_size
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            logits = (self._compiled if whole else self._parallel)(inputs)
            smoothing = self.settings.label_smoothing
            total = F.cross_entropy(logits, own, reduction="sum", label_smoothing=smoothing)
            loss = total / len(labels)
        self.optimizer.zero_grad(set_to_none=True)
        # The gradients are averaged over the processes, and the loss is a sum over their shares.
        (loss * self.team.size).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        if self.first_seconds is None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.first_seconds = time.perf_counter() - start
        return self._summed(loss.detach(), (logits.detach().argmax(1) == own).sum())

    def _summed(self, loss: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
        """Over all processes."""
        if self.team.size == 1:
            return loss, correct
        loss, correct = self.team.sum(torch.stack([loss.double(), correct.double()]))
        return loss.float(), correct.long()
