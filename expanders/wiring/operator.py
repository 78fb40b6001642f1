"""How sparse layers compute: over their edges, or as the framework's dense operation.

Both give the same numbers to rounding. *Dense* scatters the live weights into a dense kernel.
*Sparse* runs `csrc/sparse_conv2d.cpp`, whose work and memory grow with the number of edges, on the
CPU in float32 and float64. Where it cannot be built (see `expanders.wiring.native`), all layers
compute densely. *Auto* takes the one that was measured to be faster.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from expanders.wiring import native

Execution = Literal["auto", "dense", "sparse"]


def choose(
    execution: Execution,
    density: float,
    num_left: int,
    x: Tensor,
    weight: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
) -> Literal["dense", "sparse"]:
    """What a layer that asks for `execution` gets: the faster one, or all that is possible.

    Args:
        execution: what the layer asks for; "auto" leaves it to `is_faster_sparse`.
        density: share of the possible edges between channels that exist.
        num_left: input channels of the layer.
        x: input of the layer.
        weight: live weights.
        kernel_size: height and width, in pixels; nothing for a linear layer.
        stride: vertical and horizontal, in pixels.
    """
    if execution == "dense" or not _is_supported(x, weight):
        return "dense"
    if execution == "auto" and not is_faster_sparse(density, num_left, kernel_size, stride):
        return "dense"
    return "sparse" if native.is_available() else "dense"


def is_faster_sparse(
    density: float, num_left: int, kernel_size: Sequence[int], stride: Sequence[int] = (1, 1)
) -> bool:
    """Whether sparse execution is the faster one on a CPU, forward and backward together.

    The densities of equal speed, measured in float32 with AVX-512 against the better of oneDNN's
    contiguous and channels-last convolutions by `benchmarks/densities.py`, 64 to 512 channels:
    3x3 with stride 1: 0.3 to 0.5; with stride 2: 0.14 to 0.16; 1x1: 0.14 to 0.22; linear: 0.09 to
    0.14. An input row that was loaded serves three kernel rows in the first case, and one in the
    others.

    Dense convolutions compute blocks of 8 or 16 input channels. Of images with 3 or 4 channels most
    of a block is empty, and 3x3 kernels with stride 1 are faster over the edges of any graph: a
    step of a complete one 1.1 to 1.7 times, from 16 to 128 images of 32x32 pixels.
    """
    if not kernel_size:
        return density <= 0.1
    if math.prod(kernel_size) > 1 and math.prod(stride) == 1:
        return density <= 0.3 or (num_left <= 4 and tuple(kernel_size) == (3, 3))
    return density <= 0.15


def _is_supported(x: Tensor, weight: Tensor) -> bool:
    """Whether there is a sparse operator for these tensors.

    Under autocast it computes in the weights' float32, whatever type its neighbours computed in.
    """
    return (
        x.device.type == weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and (x.dtype == weight.dtype or torch.is_autocast_enabled("cpu"))
    )
