"""One run on several processes, as `torchrun` starts them: each computes its share of every batch.

The graphs, the initial weights, the order of the images and their augmentation depend on seeds only
and so are equal everywhere. Batch norm takes its statistics over the whole batch and gradients
are summed over it, so that training is that of one process, to rounding (dropout apart, whose
masks are drawn by each process).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from expanders.errors import SettingError, TeamError, one_line

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes of a run: this one is number `rank` of `size`. By default it is alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this is the one process that writes files and talks to W&B."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch."""
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, without gradients."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def from_writer(self, make: Callable[[], T]) -> T:
        """What the writer makes, for all: equal even where machines would compute differently.

        All processes call this at the same point, and wait for the writer there.

        Raises:
            TeamError: in the others, if the writer's `make` raised something.
        """
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]  # what was made; why it could not be
        failure: Exception | None = None
        if self.is_writer:
            try:
                outcome[0] = make()
            except Exception as error:
                failure = error
                outcome[1] = one_line(error)
        dist.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise TeamError(f"the first process of the run failed: {outcome[1]}")
        return cast(T, outcome[0])

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model`, with gradients that are averaged over the processes and global batch norms."""
        if self.size == 1:
            return model
        _globalise_norms(model)
        return DistributedDataParallel(model)


def local_rank() -> int | None:
    """The number that `torchrun` gave this process on its machine, or None without `torchrun`.

    Raises:
        SettingError: if something else has set some of its environment variables.
    """
    if "LOCAL_RANK" not in os.environ:
        return None
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        if not os.environ.get(name, "").isdecimal():
            remedy = "torchrun sets a number here; start the run with it, or unset LOCAL_RANK"
            raise SettingError(name, os.environ.get(name, ""), remedy)
    return int(os.environ["LOCAL_RANK"])


def join(device: torch.device) -> Team:
    """Meet the other processes that `torchrun` has started, if it has."""
    if local_rank() is None:
        return Team()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), dist.get_world_size())


class _Sum(torch.autograd.Function):
    """The sum over all processes; every process's gradient goes back to every process."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the images of all processes; the framework's own does this on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, (N, channels, H, W); every process has its own N."""
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.float() if x.dtype == torch.bfloat16 else x
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([count, x.sum((0, 2, 3))]))
        size, mean = sums[0].detach(), sums[1:] / sums[0].detach()
        centred = x - mean[:, None, None]
        squares: Tensor = _Sum.apply(centred.square().sum((0, 2, 3)))
        variance = squares / size
        self._remember(mean.detach(), squares.detach() / (size - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = self.weight * scale
        normalised: Tensor = centred * scale[:, None, None]
        if self.bias is not None:
            normalised = normalised + self.bias[:, None, None]
        return normalised.to(dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics: a moving average; with momentum=None the mean of all."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def _globalise_norms(model: nn.Module) -> None:
    """Swap the batch norms of `model`, in place; their parameters and statistics stay."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                swapped = GlobalBatchNorm2d(norm.num_features)
                swapped.__dict__.update(norm.__dict__)
                setattr(parent, name, swapped)
