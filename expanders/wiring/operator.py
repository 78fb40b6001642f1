"""How sparse layers compute: over their edges, or as the framework's dense operation.

Both give the same numbers to rounding. *Dense* scatters the live weights into a dense kernel.
*Sparse* runs `csrc/sparse_conv2d.cpp`, whose work and memory grow with the number of edges, on the
CPU in float32 and float64. Where it cannot be built (see `expanders.wiring.native`), the dense path
computes everything. *Auto* takes the path that was measured to be faster.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    """Convolution over edges only; differentiable in `x` and `weight`, any number of times.

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
        NotImplementedError: in forward-mode differentiation.
    """
    if forward_ad._current_level >= 0:  # compiled, tangents would be lost without a word
        raise NotImplementedError(
            "layers that compute over edges have no forward-mode derivatives (jvp, jacfwd): "
            "use reverse mode (grad, vjp, jacrev), or execution=dense"
        )
    y: Tensor = _Convolution.apply(
        x.to(weight.dtype), weight, edges, num_right, stride, margins, dilation
    )
    return y


# ---------------------------------------------------------------------------- autograd and tracing


class _Convolution(torch.autograd.Function):
    """The operator, differentiable.

    The output is linear in the input and linear in the weights, and so is each of their gradients
    in what it is made of. Derivatives of any order are therefore made of the same two operators,
    this one and `_Gradients`. `torch.func` needs these classes, and the compiler needs them to name
    their arguments; the operators' own registration serves who calls them directly.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        edges: Tensor,
        num_right: int,
        stride: Sequence[int],
        margins: Sequence[int],
        dilation: Sequence[int],
    ) -> Any:
        return torch.ops.expanders.sparse_conv2d(
            x, weight, edges, num_right, stride, margins, dilation
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, edges, _, *ctx.geometry = inputs
        ctx.save_for_backward(x, weight, edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_weight = ctx.needs_input_grad[:2]
        x_grad, weight_grad = _Gradients.apply(
            grad, *ctx.saved_tensors, *ctx.geometry, need_x, need_weight
        )
        unused = (None,) * 5
        return (x_grad if need_x else None, weight_grad if need_weight else None, *unused)


class _Gradients(torch.autograd.Function):
    """Gradients of the operator's input and weights, each empty where not needed.

    The one of the input depends on the input's shape only, and likewise the other.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        edges: Tensor,
        stride: Sequence[int],
        margins: Sequence[int],
        dilation: Sequence[int],
        need_x: bool,
        need_weight: bool,
    ) -> Any:
        return torch.ops.expanders.sparse_conv2d_backward(
            grad, x, weight, edges, stride, margins, dilation, need_x, need_weight
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, x, weight, edges, *ctx.geometry, ctx.need_x, ctx.need_weight = inputs
        ctx.save_for_backward(grad, x, weight, edges)

    @staticmethod
    def backward(ctx: Any, x_slope: Tensor, weight_slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `grad`, `x` and `weight`, given those of the gradients."""
        grad, x, weight, edges = ctx.saved_tensors
        grad_slope = x_grad = weight_grad = None
        if ctx.need_x:
            arguments = (x_slope, weight, edges, grad.shape[1], *ctx.geometry)
            grad_slope = _Convolution.apply(*arguments)
            arguments = (grad, x_slope, weight, edges, *ctx.geometry)
            weight_grad = _Gradients.apply(*arguments, False, True)[1]
        if ctx.need_weight:
            arguments = (x, weight_slope, edges, grad.shape[1], *ctx.geometry)
            y = _Convolution.apply(*arguments)
            grad_slope = y if grad_slope is None else grad_slope + y
            arguments = (grad, x, weight_slope, edges, *ctx.geometry)
            x_grad = _Gradients.apply(*arguments, True, False)[0]
        return (grad_slope, x_grad, weight_grad, *(None,) * 6)


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
def _register() -> None:
    """Tell PyTorch how to trace, differentiate and map the operators."""
    for name, fake, function in (
        ("expanders::sparse_conv2d", _fake_forward, _Convolution),
        ("expanders::sparse_conv2d_backward", _fake_backward, _Gradients),
    ):
        torch.library.register_fake(name, fake)
        torch.library.register_autograd(
            name, function.backward, setup_context=function.setup_context
        )
        torch.library.register_vmap(name, partial(_one_by_one, function))


def _one_by_one(
    function: type[torch.autograd.Function], info: Any, dims: Sequence[Any], *arguments: Any
) -> tuple[Any, Any]:
    """`function` of each of the mapped elements in turn, and in which dimension they are now."""
    results = [
        function.forward(
            *(
                value if dim is None or not isinstance(value, Tensor) else value.select(dim, i)
                for value, dim in zip(arguments, dims, strict=True)
            )
        )
        for i in range(info.batch_size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
