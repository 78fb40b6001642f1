"""Depthwise convolutions of images on a CPU, over edges: each channel has one, to itself.

The gradients of PyTorch's own take several times as long where kernels are large. Values and
gradients are equal to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expanders.wiring import functional, native
from expanders.wiring.geometry import margins_of, pair

_ROWS = range(16, 65)  # pixels of a row of images for which kernels of 3x3 are faster


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, over edges where `is_faster_over_edges` says so.

    Args:
        input: images, (N, C, H, W).
        weight: (C * multiplier, 1, kh, kw).
        bias: (C * multiplier,), or None.
        stride, dilation: one number, or two for height and width.
        padding: the same, or "same" or "valid".
        groups: C.
    """
    if not is_faster_over_edges(input, weight, stride, groups):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    outputs, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
    right = torch.arange(outputs, device=input.device)
    edges = torch.stack([right // (outputs // groups), right])
    step, spread = pair(stride), pair(dilation)
    margins = margins_of(padding if isinstance(padding, str) else pair(padding), kernel, spread)
    kernels = weight.flatten(0, 1)
    return functional.conv2d(input, kernels, edges, outputs, step, margins, spread, bias=bias)


def is_faster_over_edges(x: Tensor, weight: Tensor, stride: Any, groups: int) -> bool:
    """Whether a convolution is depthwise, and forward and backward together faster over edges.

    Measured on two cores with AVX-512 against contiguous images: kernels of 5x5 and 7x7 pixels are
    2 to 20 times as fast; of 3x3 with stride 1, from 1.6 to 2 times with rows of 16 to 56 pixels,
    and no faster with 14 or 112; with stride 2, no faster.
    """
    if groups == 1 or groups != x.shape[1] or weight.dtype != x.dtype or not native.takes(x):
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    kernel = tuple(weight.shape[2:])
    if kernel in ((5, 5), (7, 7)):
        return True
    return kernel == (3, 3) and pair(stride) == (1, 1) and x.shape[3] in _ROWS
