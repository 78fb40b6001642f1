"""Batch norm in training together with what follows it: addition, clamp (ReLU), 2x2 max-pool.

`csrc/batch_norm.cpp` computes them in the fewest passes over memory; on other devices, in other
types and outside of training, PyTorch's own operations do, with equal results to rounding.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expanders.wiring import native
from expanders.wiring.derivatives import call, register

Bounds = tuple[float, float]
"""The lowest and the highest value that a clamp leaves."""

UNBOUNDED: Bounds = (-math.inf, math.inf)
RELU: Bounds = (0.0, math.inf)
RELU6: Bounds = (0.0, 6.0)

_WIDEST = 512  # pixels of a row; two must fit a strip of csrc/batch_norm.cpp


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    bounds: Bounds = UNBOUNDED,
    pool: bool = False,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, then: add `residual`, clamp, max-pool of 2x2 pixels.

    Args:
        x: images, (N, C, H, W).
        running_mean, running_var: (C,), updated in training; or None.
        weight, bias: (C,), or None.
        training: whether to use the statistics of `x`.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        residual: as `x`, or None.
        bounds: what the outputs are clamped to: `RELU`, `RELU6` or others.
        pool: whether to pool.

    Returns:
        Images of the size of `x`, or of half its height and width.
    """
    if not (training and is_supported(x, weight)) or (
        pool and (residual is not None or not can_pool(x, bounds))
    ):
        y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        y = y if residual is None else y + residual
        y = F.relu(y) if bounds == RELU else y if bounds == UNBOUNDED else F.hardtanh(y, *bounds)
        return F.max_pool2d(y, 2) if pool else y
    y, mean, var = call(_BatchNorm, x, weight, bias, residual, eps, *bounds, pool)
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var.to(running_var.dtype) * (count / (count - 1))
            running_var.lerp_(unbiased, momentum)
    return y  # type: ignore[no-any-return]


def is_supported(x: Tensor, weight: Tensor | None) -> bool:
    """Whether the operator computes the batch norm of `x`, in training."""
    return (
        native.takes(x)
        and x.numel() > x.shape[1]  # more than one number a channel
        and (weight is None or weight.dtype == x.dtype)
    )


def can_pool(x: Tensor, bounds: Bounds) -> bool:
    """Whether the operator pools images of this size, after a clamp to these bounds."""
    return bounds == RELU and x.shape[2] % 2 == x.shape[3] % 2 == 0 and x.shape[3] <= _WIDEST


# ---------------------------------------------------------------------------- autograd and tracing


class _BatchNorm(torch.autograd.Function):
    """The images, and mean and variance of each channel."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        low: float,
        high: float,
        pool: bool,
    ) -> Any:
        return torch.ops.expanders.batch_norm(x, weight, bias, residual, eps, low, high, pool)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, bias, residual, *ctx.options = inputs
        y, mean, var = output
        is_bounded = tuple(ctx.options[1:3]) != UNBOUNDED
        ctx.mark_non_differentiable(mean, var)
        ctx.has_residual = residual is not None
        kept = y if ctx.has_residual and is_bounded else None  # the next layer keeps it anyway
        ctx.save_for_backward(x, weight, bias, kept, mean, var)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, y, mean, var = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated
            grads = _differentiable_gradients(grad, x, weight, bias, y, *ctx.options)
        else:
            grads = torch.ops.expanders.batch_norm_backward(
                grad, x, weight, bias, y, mean, var, *ctx.options
            )
        x_grad, weight_grad, bias_grad, residual_grad = grads
        if ctx.has_residual and y is None:
            residual_grad = grad
        return (
            x_grad,
            None if weight is None else weight_grad,
            None if bias is None else bias_grad,
            residual_grad if ctx.has_residual else None,
            *(None,) * 4,
        )


def _differentiable_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    eps: float,
    low: float,
    high: float,
    pool: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `batch_norm_backward` returns, in operations that have derivatives themselves."""
    dims, shape = (0, 2, 3), (1, -1, 1, 1)
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    normal = (x - mean) * (var + eps).rsqrt()
    scaled = normal if weight is None else normal * weight.view(shape)
    z = scaled if bias is None else scaled + bias.view(shape)
    if pool:
        _, largest = F.max_pool2d(z, 2, return_indices=True)
        grad = grad * (z.flatten(2).gather(2, largest.flatten(2)).view_as(grad) > 0)
        grad = F.max_unpool2d(grad, largest, [2, 2])
    elif (low, high) != UNBOUNDED:
        clamped = z if y is None else y
        beyond = (clamped <= low) & (low > -math.inf) | (clamped >= high) & (high < math.inf)
        grad = grad.masked_fill(beyond, 0)
    bias_grad, weight_grad = grad.sum(dims), (grad * normal).sum(dims)
    normal_grad = grad if weight is None else grad * weight.view(shape)
    mean_grad = normal_grad.mean(dims, keepdim=True)
    slope = (normal_grad * normal).mean(dims, keepdim=True)
    x_grad = (normal_grad - mean_grad - normal * slope) * (var + eps).rsqrt()
    return x_grad, weight_grad, bias_grad, grad


def _fake_forward(x: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = x.shape
    step = 2 if options[-1] else 1  # whether it pools
    y = x.new_empty(count, channels, height // step, width // step)
    return y, x.new_empty(channels), x.new_empty(channels)


def _fake_backward(
    grad: Tensor, x: Tensor, weight: Any, bias: Any, y: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    residual_grad = x.new_empty(x.shape if y is not None else 0)
    return x.new_empty(x.shape), x.new_empty(channels), x.new_empty(channels), residual_grad


@native.when_loaded
def _register() -> None:
    torch.library.register_fake("expanders::batch_norm", _fake_forward)
    torch.library.register_fake("expanders::batch_norm_backward", _fake_backward)
    register("expanders::batch_norm", _BatchNorm)
