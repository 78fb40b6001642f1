"""Learning-rate schedules: each a pure function of the epoch, so a resumed run has the same rates.

Every function takes the optimizer first and returns a scheduler to be stepped once an epoch. To
add one, write such a function and one YAML file in `conf/schedule`.
"""

import logging
import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from expanders.errors import SettingError

log = logging.getLogger(__name__)


def step(
    optimizer: Optimizer,
    step_size: int | Sequence[int] = 30,
    gamma: float = 0.5,
    min_lr: float = 0.0,
) -> LambdaLR:
    """Multiply the rate by `gamma` every `step_size` epochs, as long as it stays above `min_lr`.

    Several numbers stand for one step after each of these numbers of epochs. A step that would
    reach `min_lr` or go below is left out (the paper's floor: 0.05, halved above a floor of 5e-4,
    ends at 7.8e-4).

    Raises:
        SettingError: if a `step_size` is not positive, `gamma` is not in (0, 1], or `min_lr` is
            negative.
    """
    if min([step_size] if isinstance(step_size, int) else step_size, default=0) < 1:
        raise SettingError("schedule.step_size", step_size, "must be a positive number of epochs")
    if not 0 < gamma <= 1:
        raise SettingError("schedule.gamma", gamma, "must be above 0 and at most 1")
    lr = optimizer.param_groups[0]["lr"]
    if min_lr < 0:
        raise SettingError("schedule.min_lr", min_lr, "must be 0 or more")
    if gamma < 1 and 0 < lr * gamma <= min_lr:
        log.warning(
            "the rate stays at %g: a step would not be above schedule.min_lr=%g", lr, min_lr
        )

    def factor(epoch: int) -> float:
        if isinstance(step_size, int):
            steps = epoch // step_size
        else:
            steps = sum(epoch >= milestone for milestone in step_size)
        while steps and lr * gamma**steps <= min_lr:
            steps -= 1
        return gamma**steps

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, epochs: int) -> LambdaLR:
    """Half a cosine from the optimizer's rate to 0 over `epochs` (Loshchilov & Hutter, 2017)."""
    return LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / max(1, epochs))))


def constant(optimizer: Optimizer) -> LambdaLR:
    """The optimizer's rate throughout."""
    return LambdaLR(optimizer, lambda epoch: 1.0)
