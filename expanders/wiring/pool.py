"""Max-pooling of images on a CPU.

PyTorch's own operator compares number by number where images are contiguous; `csrc/max_pool.cpp`
works on whole vectors. Values and derivatives are the same, bit by bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from expanders.wiring import native
from expanders.wiring.derivatives import call, register
from expanders.wiring.geometry import side

_LARGEST = 15  # pixels of a window's side; a place in a window fits a byte


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`torch.nn.functional.max_pool2d`, by the operator where `window` says so.

    Args:
        input: images, (N, C, H, W).
        kernel_size, stride, padding, dilation: one number, or two for height and width.
        ceil_mode: whether windows may reach beyond the padding.
        return_indices: whether to return the places of the largest pixels as well.
    """
    options: Any = (kernel_size, stride or None, padding, dilation, ceil_mode, return_indices)
    if has_torch_function_unary(input):  # such as a tracer's, when a folded network is loaded
        return handle_torch_function(max_pool2d, (input,), input, *options)
    found = window(input, *options)
    if found is None:
        return F.max_pool2d(input, *options)
    with_places = input.requires_grad and torch.is_grad_enabled()
    return call(_MaxPool, input, *found, with_places)[0]


def window(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[int, int, int] | None:
    """Size, stride and padding of windows that the operator takes, else None.

    These are square windows of at most 15x15 pixels, without dilation, on images that
    `native.takes`, and without indices to return.
    """
    size, step, border = (side(v) for v in (kernel_size, stride or kernel_size, padding))
    if size is None or step is None or border is None or side(dilation) != 1:
        return None
    plain = not ceil_mode and not return_indices and size <= _LARGEST and 2 * border <= size
    if not plain or not native.takes(x) or min(x.shape[2:]) + 2 * border < size:
        return None
    return size, step, border


# ---------------------------------------------------------------------------- autograd and tracing


class _MaxPool(torch.autograd.Function):
    """The images, and the place of the largest pixel in each window."""

    @staticmethod
    def forward(x: Tensor, size: int, stride: int, padding: int, with_places: bool) -> Any:
        return torch.ops.expanders.max_pool2d(x, size, stride, padding, with_places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, *ctx.options, with_places = inputs
        assert with_places or not ctx.needs_input_grad[0], "derivatives need the places"
        ctx.height, ctx.width = x.shape[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        compute: Any = torch.ops.expanders.max_pool2d_backward
        if torch.is_grad_enabled():  # the gradient will be differentiated
            compute = _differentiable_gradient
        return compute(grad, places, ctx.height, ctx.width, *ctx.options), None, None, None, None


def _differentiable_gradient(
    grad: Tensor, places: Tensor, height: int, width: int, size: int, stride: int, padding: int
) -> Tensor:
    """What `max_pool2d_backward` returns, in operations that have derivatives themselves."""
    rows = torch.arange(places.shape[2])[:, None] * stride - padding + places.long() // size
    columns = torch.arange(places.shape[3]) * stride - padding + places.long() % size
    pixels = (rows * width + columns).flatten(2)
    x_grad = grad.new_zeros(*grad.shape[:2], height * width)
    return x_grad.scatter_add(2, pixels, grad.flatten(2)).view(*grad.shape[:2], height, width)


def _fake_forward(
    x: Tensor, size: int, stride: int, padding: int, with_places: bool
) -> tuple[Tensor, Tensor]:
    sides = [(side + 2 * padding - size) // stride + 1 for side in x.shape[2:]]
    y = x.new_empty(*x.shape[:2], *sides)
    return y, x.new_empty(y.shape if with_places else 0, dtype=torch.uint8)


def _fake_backward(
    grad: Tensor, places: Tensor, height: int, width: int, size: int, stride: int, padding: int
) -> Tensor:
    return grad.new_empty(*grad.shape[:2], height, width)


@native.when_loaded
def _register() -> None:
    torch.library.register_fake("expanders::max_pool2d", _fake_forward)
    torch.library.register_fake("expanders::max_pool2d_backward", _fake_backward)
    register("expanders::max_pool2d", _MaxPool)
