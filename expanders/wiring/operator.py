"""How sparse layers compute: over their edges, or as the framework's dense operation.

Both give the same numbers to rounding. *Dense* scatters the live weights into a dense kernel.
*Sparse* runs `csrc/sparse_conv2d.cpp`, whose work and memory grow with the number of edges, on the
CPU in float32 and float64. Where it cannot be built (see `expanders.wiring.native`), the dense path
computes everything. *Auto* takes the path that was measured to be faster.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from expanders.errors import SettingError
from expanders.wiring import native

Execution = Literal["auto", "dense", "sparse"]


def choose(
    execution: Execution, density: float, x: Tensor, weight: Tensor, stride: Sequence[int] = (1, 1)
) -> Literal["dense", "sparse"]:
    """The path on which a layer computes.

    Args:
        execution: what the layer asks for; "auto" leaves it to `is_faster_sparse`.
        density: share of the possible edges that exist.
        x: input of the layer.
        weight: live weights, (num_edges, *kernel_size).
        stride: vertical and horizontal, in pixels.

    Raises:
        SettingError: if `execution` is none of the three.
    """
    if execution not in ("auto", "dense", "sparse"):
        raise SettingError("execution", execution, "must be auto, dense or sparse")
    if execution == "dense" or not _is_supported(x, weight):
        return "dense"
    if execution == "auto" and not is_faster_sparse(density, weight.shape[1:], stride):
        return "dense"
    return "sparse" if native.is_available() else "dense"


def is_faster_sparse(
    density: float, kernel_size: Sequence[int], stride: Sequence[int] = (1, 1)
) -> bool:
    """Whether the sparse path is the faster one on a CPU, forward and backward together.

    The densities of equal speed, measured in float32 with AVX-512 against the better of oneDNN's
    contiguous and channels-last convolutions (64 to 512 channels, planes of 2x2 to 32x32 pixels):
    3x3 with stride 1: 0.3 to 0.5; with stride 2: 0.1 to 0.35; 1x1: 0.1 to 0.25. An input row that
    was loaded serves three kernel rows in the first case, and one in the others.
    """
    if math.prod(kernel_size) > 1 and math.prod(stride) == 1:
        return density <= 0.3
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


def conv2d(
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int] = (1, 1),
    margins: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """Convolution over edges only; differentiable in `x` and `weight`, once.

    Args:
        x: images, (N, num_left, H, W).
        weight: one kernel per edge, (num_edges, kh, kw).
        edges: int64, (2, num_edges), sorted by output, then by input channel.
        num_right: number of output channels.
        stride, dilation: vertical and horizontal, in pixels.
        margins: columns and rows of zeros to add: left, right, top, bottom.

    Returns:
        Contiguous images (N, num_right, H', W'), of the type of `weight`.

    Raises:
        RuntimeError: on wrong shapes, or if it could not be built (see `native.is_available`).
    """
    y: Tensor = torch.ops.expanders.sparse_conv2d(
        x.to(weight.dtype), weight, edges, num_right, stride, margins, dilation
    )
    return y


# ---------------------------------------------------------------------------- autograd and tracing


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, edges, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, edges)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, edges = ctx.saved_tensors
    need_x, need_weight = ctx.needs_input_grad[:2]
    x_grad, weight_grad = torch.ops.expanders.sparse_conv2d_backward(
        grad, x, weight, edges, *ctx.geometry, need_x, need_weight
    )
    unused = (None,) * 5
    return (x_grad if need_x else None, weight_grad if need_weight else None, *unused)


def _fake_forward(
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int],
    margins: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    left, right, top, bottom = margins
    height = (x.shape[2] + top + bottom - dilation[0] * (weight.shape[1] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + left + right - dilation[1] * (weight.shape[2] - 1) - 1) // stride[1] + 1
    return x.new_empty(x.shape[0], num_right, height, width)


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    stride: Sequence[int],
    margins: Sequence[int],
    dilation: Sequence[int],
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else 0), weight.new_empty(
        weight.shape if need_weight else 0
    )


@native.when_loaded
def _register_derivatives() -> None:
    torch.library.register_fake("expanders::sparse_conv2d", _fake_forward)
    torch.library.register_fake("expanders::sparse_conv2d_backward", _fake_backward)
    torch.library.register_autograd(
        "expanders::sparse_conv2d", _backward, setup_context=_setup_context
    )
