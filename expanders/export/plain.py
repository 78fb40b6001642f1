"""Networks rebuilt from operators that every runtime has, for inference.

`gathered` keeps only live weights, `dense` fills the missing ones with zeros. Both return copies.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expanders.wiring.geometry import margins_of
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.unstructured import UnstructuredConv2d


class OnPixels(nn.Module):
    """A network behind its normalisation: takes pixels of 0..255, float32 (N, 3, H, W).

    `mean` and `std` are per channel, in units of 0..255.
    """

    pixel_mean: Tensor  # not `mean`: PyTorch 2.6 gives that name to pooling, in the same ONNX graph
    pixel_scale: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("pixel_scale", 1 / torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of images (N, 3, H, W)."""
        return self.network((pixels - self.pixel_mean) * self.pixel_scale)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------ sparse layers


class GatheredConv2d(nn.Module):
    """A sparse convolution as a sum of depthwise ones over gathered inputs.

    Slot j has the j-th edge of every output that has more than j edges. It gathers one input
    channel for each of them and convolves each with its own kernel. Outputs are sorted by degree,
    the highest first, so that each slot adds to the first outputs of the slot before it. Together
    the slots hold every live kernel once and nothing else. (A grouped convolution per degree would
    hold the same weights; onnxruntime took 3 to 4 times as long for it.)
    """

    dead: Tensor
    place: Tensor

    def __init__(self, layer: SparseConv2d) -> None:
        super().__init__()
        edges, weight = layer.edges, layer.weight.detach()
        if layer.num_edges == 0:  # the size of the output comes from some convolution
            edges, weight = edges.new_zeros(2, 1), weight.new_zeros(1, *layer.kernel_size)
        bias = weight.new_zeros(layer.num_right) if layer.bias is None else layer.bias.detach()
        degrees = torch.bincount(edges[1], minlength=layer.num_right)
        order = degrees.argsort(descending=True, stable=True)
        first_edge = degrees.cumsum(0) - degrees

        symmetric = _is_symmetric(layer.margins) and layer.padding_mode == "zeros"
        self.margins = None if symmetric else layer.margins
        self.mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padding = (layer.margins[2], layer.margins[0]) if symmetric else (0, 0)
        self.slots = nn.ModuleList()
        for slot in range(int(degrees.max())):
            outputs = order[: int((degrees > slot).sum())]
            edge = first_edge[outputs] + slot
            depthwise = nn.Conv2d(
                len(outputs),
                len(outputs),
                layer.kernel_size,
                stride=layer.stride,
                padding=padding,
                dilation=layer.dilation,
                groups=len(outputs),
                device="meta",
            )
            depthwise.weight = nn.Parameter(weight[edge, None])
            depthwise.bias = nn.Parameter(bias[outputs]) if slot == 0 else None
            self.slots.append(nn.Sequential(_Gather(edges[0, edge]), depthwise))
        self.register_buffer("dead", bias[order[int((degrees > 0).sum()) :]].view(1, -1, 1, 1))
        self.register_buffer("place", order.argsort().to(torch.int32))
        self.is_sorted = bool((order.diff() > 0).all())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, (N, num_left, H, W)."""
        if self.margins is not None:
            x = F.pad(x, self.margins, self.mode)
        *others, last = self.slots
        y: Tensor = last(x)
        for slot in reversed(others):
            z = slot(x)
            missing = z.shape[1] - y.shape[1]
            y = z + (F.pad(y, (0, 0, 0, 0, 0, missing)) if missing else y)
        if self.dead.shape[1]:
            y = torch.cat([y, self.dead.expand(y.shape[0], -1, *y.shape[2:])], 1)
        return y if self.is_sorted else y.index_select(1, self.place)


class _Gather(nn.Module):
    """The given channels."""

    channels: Tensor

    def __init__(self, channels: Tensor) -> None:
        super().__init__()
        self.register_buffer("channels", channels.to(torch.int32))  # half the file of int64

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.channels)


class GatheredLinear(nn.Module):
    """A sparse linear layer: products with gathered inputs, summed over the slots of a 1x1 conv."""

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        conv = SparseConv2d(layer.num_left, layer.num_right, (1, 1), layer.edges)
        conv.weight = nn.Parameter(layer.weight.detach()[:, None, None])
        conv.bias = layer.bias
        self.conv = GatheredConv2d(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x`, (..., num_left)."""
        y: Tensor | None = None
        slots: list[Any] = [*self.conv.slots]
        for gather, depthwise in reversed(slots):
            z = x.index_select(-1, gather.channels) * depthwise.weight.flatten()
            if depthwise.bias is not None:
                z = z + depthwise.bias
            y = z if y is None else z + F.pad(y, (0, z.shape[-1] - y.shape[-1]))
        assert y is not None
        if self.conv.dead.numel():
            y = torch.cat([y, self.conv.dead.flatten().expand(*y.shape[:-1], -1)], -1)
        return y if self.conv.is_sorted else y.index_select(-1, self.conv.place)


def gathered(model: nn.Module, better: Callable[[SparseLayer], bool]) -> nn.Module:
    """A copy with every sparse layer in plain operators: as gathers where that is `better`."""

    def rebuild(layer: SparseLayer) -> nn.Module:
        if not better(layer):
            return _dense_layer(layer)
        if isinstance(layer, UnstructuredConv2d):
            layer = layer.kernels()
        if isinstance(layer, SparseConv2d):
            return GatheredConv2d(layer)
        assert isinstance(layer, SparseLinear)
        return GatheredLinear(layer)

    return _with_layers(model, rebuild)


def is_faster_gathered(layer: SparseLayer, pixels: int) -> bool:
    """Whether onnxruntime computes a layer faster as gathers than with a dense kernel.

    The densities of equal speed, measured for single images on one thread (64 to 1024 channels,
    images of 2x2 to 32x32 pixels): with AVX-512, 3x3 with stride 1: 0.15 to 0.2; with stride 2:
    0.1; 1x1: 0.015 to 0.03. With AVX2: 0.13, and 0.09 to 0.11 below 8x8 pixels; 0.08 to 0.09; 0.015
    to 0.03.

    Args:
        layer: a sparse layer.
        pixels: that it computes, of one image and channel.
    """
    density = layer.edge_density
    if math.prod(layer.kernel_size) == 1:
        return density <= 0.015
    if math.prod(layer.stride) > 1:
        return density <= 0.08
    return density <= (0.125 if pixels >= 64 else 0.09)


def output_pixels(model: nn.Module, size: int) -> dict[SparseLayer, int]:
    """How many pixels every sparse layer computes of one channel, for an image of size x size.

    Layers that are not called are left out.
    """
    found: dict[SparseLayer, int] = {}

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(layer, SparseLayer)
        found[layer] = math.prod(output.shape[2:])

    layers = [module for module in model.modules() if isinstance(module, SparseLayer)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def is_smaller_gathered(layer: SparseLayer) -> bool:
    """Whether a layer takes less memory as gathers: an edge then costs its kernel and its input."""
    kernel = math.prod(layer.kernel_size)
    return layer.edge_density < kernel / (kernel + 1)


def dense(model: nn.Module) -> nn.Module:
    """A copy with an `nn.Conv2d` or `nn.Linear` for every sparse layer, zero off the graph."""
    return _with_layers(model, _dense_layer)


def whole_kernels(model: nn.Module) -> nn.Module:
    """A copy with kernels on edges for every layer of single weights; other layers stay."""
    return _with_layers(model, lambda m: m.kernels() if isinstance(m, UnstructuredConv2d) else m)


def _dense_layer(layer: SparseLayer) -> nn.Module:
    plain: nn.Conv2d | nn.Linear
    if isinstance(layer, SparseConv2d):
        plain = nn.Conv2d(
            layer.num_left,
            layer.num_right,
            layer.kernel_size,
            stride=layer.stride,
            # Only "same" with an even kernel adds more on one side than on the other.
            padding=(layer.margins[2], layer.margins[0])
            if _is_symmetric(layer.margins)
            else "same",
            dilation=layer.dilation,
            padding_mode=layer.padding_mode,  # type: ignore[arg-type]
            device="meta",
        )
    else:
        plain = nn.Linear(layer.num_left, layer.num_right, device="meta")
    plain.weight = nn.Parameter(layer.dense_weight().detach())
    plain.bias = copy.deepcopy(layer.bias)
    return plain


def margins(conv: nn.Conv2d | SparseConv2d) -> tuple[int, int, int, int]:
    """Zeros that a convolution adds: left, right, top, bottom, in pixels."""
    if isinstance(conv, SparseConv2d):
        return conv.margins
    return margins_of(conv.padding, conv.kernel_size, conv.dilation)  # type: ignore[arg-type]


def _is_symmetric(margins: tuple[int, int, int, int]) -> bool:
    left, right, top, bottom = margins
    return (left, top) == (right, bottom)


def _with_layers(model: nn.Module, rebuild: Callable[[SparseLayer], nn.Module]) -> nn.Module:
    """A copy of the model with what `rebuild` makes of each sparse layer."""
    copied = copy.deepcopy(model)
    rebuilt: dict[int, nn.Module] = {}  # a layer may sit in several places
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, SparseLayer):
            if id(layer) not in rebuilt:
                new = rebuild(layer)
                relu = isinstance(layer, SparseConv2d) and layer.relu
                rebuilt[id(layer)] = nn.Sequential(new, nn.ReLU()) if relu else new
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, rebuilt[id(layer)])
    return copied.eval()
