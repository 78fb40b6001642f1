"""Convolution and linear layer over edges, with derivatives of any order.

Outputs are linear in the input and linear in the weights, and each gradient is linear in what it is
made of. Derivatives of any order are therefore made of the same operators: one that computes the
output, and one that computes all gradients at once, which share most of their work.

`torch.func` needs `torch.autograd.Function`s, and the compiler needs their arguments named. The
operators' own registration serves those who call them directly.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from expanders.wiring import native
from expanders.wiring.derivatives import call, register


def conv2d(
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int] = (1, 1),
    margins: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    *,
    bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Convolution over edges only, differentiable any number of times.

    Args:
        x: images, (N, num_left, H, W).
        weight: one kernel per edge, (num_edges, kh, kw).
        edges: int64, (2, num_edges), sorted by output, then by input channel.
        num_right: number of output channels.
        stride, dilation: vertical and horizontal, in pixels.
        margins: columns and rows of zeros to add: left, right, top, bottom.
        bias: (num_right,), or None.
        relu: whether to replace negative outputs by 0.

    Returns:
        Contiguous images (N, num_right, H', W'), of the type of `weight`.

    Raises:
        RuntimeError: on wrong shapes, or if it could not be built (see `native.is_available`).
        NotImplementedError: in forward-mode differentiation.
    """
    _refuse_forward_mode()
    x = x.to(weight.dtype)
    y: Tensor = call(_Conv2d, x, weight, bias, edges, num_right, stride, margins, dilation, relu)
    return y


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, edges: Tensor, num_right: int) -> Tensor:
    """A linear layer over edges only, differentiable any number of times.

    Args:
        x: tokens, (T, num_left).
        weight: one value per edge, (num_edges,).
        bias: (num_right,), or None.
        edges: int64, (2, num_edges), sorted by output, then by input.
        num_right: number of outputs.

    Returns:
        Contiguous tokens (T, num_right), of the type of `weight`.

    Raises:
        RuntimeError: on wrong shapes, or if it could not be built (see `native.is_available`).
        NotImplementedError: in forward-mode differentiation.
    """
    _refuse_forward_mode()
    y: Tensor = call(_Linear, x.to(weight.dtype), weight, bias, edges, num_right)
    return y


# Captured as they are: what the compiler makes of an autograd.Function keeps all that it saves,
# activations of several steps, until Python's garbage collector comes.
for _function in (conv2d, linear):
    torch.compiler.allow_in_graph(_function)  # type: ignore[no-untyped-call]


def _refuse_forward_mode() -> None:
    """Raise NotImplementedError in forward mode: compiled, tangents would be lost in silence."""
    if forward_ad._current_level >= 0:
        raise NotImplementedError(
            "layers that compute over edges have no forward-mode derivatives (jvp, jacfwd): "
            "use reverse mode (grad, vjp, jacrev), or execution=dense"
        )


class _Conv2d(torch.autograd.Function):
    """Convolution over edges."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        edges: Tensor,
        num_right: int,
        stride: Sequence[int],
        margins: Sequence[int],
        dilation: Sequence[int],
        relu: bool,
    ) -> Any:
        return torch.ops.expanders.sparse_conv2d(
            x, weight, bias, edges, num_right, stride, margins, dilation, relu
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, edges, _, *ctx.geometry, ctx.relu = inputs
        ctx.save_for_backward(x, weight, edges, *([output] if ctx.relu else []))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, edges, *output = ctx.saved_tensors
        if ctx.relu:
            grad = grad * (output[0] > 0)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        x_grad, weight_grad = call(
            _Conv2dGradients, grad, x, weight, edges, *ctx.geometry, need_x, need_weight
        )
        return (
            x_grad if need_x else None,
            weight_grad if need_weight else None,
            grad.sum((0, 2, 3)) if need_bias else None,
            *(None,) * 6,
        )


class _Conv2dGradients(torch.autograd.Function):
    """Gradients of input and kernels, each empty where not needed.

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
            arguments = (x_slope, weight, None, edges, grad.shape[1], *ctx.geometry, False)
            grad_slope = call(_Conv2d, *arguments)
            arguments = (grad, x_slope, weight, edges, *ctx.geometry)
            _, weight_grad = call(_Conv2dGradients, *arguments, False, True)
        if ctx.need_weight:
            arguments = (x, weight_slope, None, edges, grad.shape[1], *ctx.geometry, False)
            y = call(_Conv2d, *arguments)
            grad_slope = y if grad_slope is None else grad_slope + y
            arguments = (grad, x, weight_slope, edges, *ctx.geometry)
            x_grad, _ = call(_Conv2dGradients, *arguments, True, False)
        return (grad_slope, x_grad, weight_grad, *(None,) * 6)


class _Linear(torch.autograd.Function):
    """A linear layer over edges."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, edges: Tensor, num_right: int
    ) -> Any:
        return torch.ops.expanders.sparse_linear(x, weight, bias, edges, num_right)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, edges, _ = inputs
        ctx.save_for_backward(x, weight, edges)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:3]
        gradients = call(_LinearGradients, grad, *ctx.saved_tensors, *needs)
        return (*(g if n else None for g, n in zip(gradients, needs, strict=True)), None, None)


class _LinearGradients(torch.autograd.Function):
    """Gradients of tokens, weights and bias, each empty where not needed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        edges: Tensor,
        need_x: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> Any:
        return torch.ops.expanders.sparse_linear_backward(
            grad, x, weight, edges, need_x, need_weight, need_bias
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, x, weight, edges, ctx.need_x, ctx.need_weight, ctx.need_bias = inputs
        ctx.save_for_backward(grad, x, weight, edges)

    @staticmethod
    def backward(
        ctx: Any, x_slope: Tensor, weight_slope: Tensor, bias_slope: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of `grad`, `x` and `weight`, given those of the gradients."""
        grad, x, weight, edges = ctx.saved_tensors
        num_right = grad.shape[1]
        grad_slope, x_grad, weight_grad = torch.zeros_like(grad), None, None
        if ctx.need_x:
            grad_slope = call(_Linear, x_slope, weight, None, edges, num_right)
            _, weight_grad, _ = call(
                _LinearGradients, grad, x_slope, weight, edges, False, True, False
            )
        if ctx.need_weight:
            grad_slope = grad_slope + call(_Linear, x, weight_slope, None, edges, num_right)
            x_grad, _, _ = call(_LinearGradients, grad, x, weight_slope, edges, True, False, False)
        if ctx.need_bias:
            grad_slope = grad_slope + bias_slope
        return (grad_slope, x_grad, weight_grad, *(None,) * 4)


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


def _fake_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    edges: Tensor,
    num_right: int,
    stride: Sequence[int],
    margins: Sequence[int],
    dilation: Sequence[int],
    relu: bool,
) -> Tensor:
    left, right, top, bottom = margins
    height = (x.shape[2] + top + bottom - dilation[0] * (weight.shape[1] - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + left + right - dilation[1] * (weight.shape[2] - 1) - 1) // stride[1] + 1
    return x.new_empty(x.shape[0], num_right, height, width)


def _fake_conv2d_backward(
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


def _fake_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, edges: Tensor, num_right: int
) -> Tensor:
    return x.new_empty(x.shape[0], num_right)


def _fake_linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    edges: Tensor,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_x else 0),
        x.new_empty(weight.shape if need_weight else 0),
        x.new_empty(grad.shape[1] if need_bias else 0),
    )


@native.when_loaded
def _register() -> None:
    """Have the operators traced, differentiated and mapped."""
    for name, fake, function in (
        ("expanders::sparse_conv2d", _fake_conv2d, _Conv2d),
        ("expanders::sparse_conv2d_backward", _fake_conv2d_backward, _Conv2dGradients),
        ("expanders::sparse_linear", _fake_linear, _Linear),
        ("expanders::sparse_linear_backward", _fake_linear_backward, _LinearGradients),
    ):
        torch.library.register_fake(name, fake)
        register(name, function)
        torch.library.register_vmap(name, partial(_one_by_one, function))
