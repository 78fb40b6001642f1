"""The thin dense network of as many parameters as a sparse one."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from expanders.errors import SettingError

TOLERANCE = 0.02  # of the parameters
_STEPS = 10_000  # widths are multiples of 1 / _STEPS


def width_of(build: Callable[[float], nn.Module], parameters: int) -> float:
    """The width at which a dense network has a number of parameters, at most 1.

    Args:
        build: makes the network of a width, such as `partial(vgg16bn, 10)`; see `expanders.models`.
        parameters: of the whole network.

    Returns:
        The width, with four decimals, whose number of parameters comes closest.

    Raises:
        SettingError: if no width comes within 2 % of it.
    """

    @cache
    def size(step: int) -> int:
        with torch.device("meta"):  # shapes alone: no memory, no random numbers
            model = build(step / _STEPS)
        return sum(parameter.numel() for parameter in model.parameters())

    low, high = 1, _STEPS
    while low < high:  # the largest width that does not go beyond
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle - 1)
    best = min((low, min(low + 1, _STEPS)), key=lambda step: abs(size(step) - parameters))
    if abs(size(best) - parameters) > TOLERANCE * parameters:
        remedy = f"the nearest, {best / _STEPS}, has {size(best)}; choose another degree or model"
        raise SettingError("graph", "thin", f"no width gives {parameters} parameters: {remedy}")
    return best / _STEPS
