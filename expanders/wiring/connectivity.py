"""Measures of a whole network: which of its weights lie on a path from input to output.

A path runs from an input channel to an output along edges of the channel graphs, one per layer, and
along skip connections. It takes nothing but connections: biases, normalisation and activations are
left out, so a channel that no input reaches counts as dead even if a bias makes it constant.
"""

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expanders.wiring.eligible import read_by_parents
from expanders.wiring.layers import SparseConv2d, SparseLayer
from expanders.wiring.linear import linear_functions, linearised

_SOURCES = (4, 64)  # at least and at most: channels that stand for all of the first layer
_WORK = 2e8  # additions and copies of numbers, to find what these reach
_SCALE = 1e-290  # of the input: a dense ResNet-152 has some 10^380 paths, a float ends at 10^308


def measure(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, float | int | None]:
    """Measures of any network of convolutions and linear layers, sparse or dense, as a whole.

    `input_shape` is that of one sample, such as (3, 32, 32). A copy of the model, in evaluation
    mode, in which every edge adds its input to its output, is run three times. First, channels
    take the values 0 and 1: reached from the input or not; gradients say so of the output. Then a
    value is the number of paths, as in SynFlow (Tanaka et al., NeurIPS 2020). Last, channels are
    reached or not from single channels of the first layer.
    Kernels count as edges, whatever the positions in an image that they see. The model itself stays
    as it is. Returns

    - weights: live ones of all convolutions and linear layers; effective_parameters: those on
      a path from input to output, a kernel with all its weights; effective_share: of weights
    - dead_outputs: over all layers, output channels that no input reaches; unused_inputs: input
      channels of a layer that do not reach the output through it
    - log10_paths: of the number of paths from input channels to entries of the output; None
      without any path, for more than 10^598, and for a model that computes in less than float64
    - reach: of the channels that the first layer makes, the share that an output channel of a later
      layer sees by any path; mean over these channels, then over the layers between the first and
      the last. Of large networks 4 to 64 channels of the first layer, evenly spaced, stand for all.
      None for fewer than three layers
    """
    network, layers = _channel_network(model)
    sample = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
    ran: list[_ChannelLayer] = []
    hooks = [layer.register_forward_pre_hook(lambda each, _: ran.append(each)) for layer in layers]
    with torch.enable_grad(), linear_functions():
        network(sample.clone()).sum().backward()  # it may be changed in place
    for hook in hooks:
        hook.remove()
    count = _num_sources(ran) if ran else 1
    for layer in layers:
        layer.connect = layer.sum
    with torch.no_grad(), linear_functions():
        paths = float(network(_SCALE * sample.detach()).sum())
    shares = _shares_reached(network, layers, sample.detach().expand(count, *input_shape).clone())
    weights = sum(layer.num_weights for layer in layers)
    effective = sum(layer.effective_weights() for layer in layers)
    return {
        "weights": weights,
        "effective_parameters": effective,
        "effective_share": effective / weights if weights else 0.0,
        "dead_outputs": sum(layer.dead_outputs() for layer in layers),
        "unused_inputs": sum(layer.unused_inputs() for layer in layers),
        "log10_paths": math.log10(paths) - math.log10(_SCALE) if 0 < paths < math.inf else None,
        "reach": fmean(shares) if shares else None,
    }


def _num_sources(ran: list["_ChannelLayer"]) -> int:
    """How many channels of the first layer that ran stand for all of them."""
    least, most = _SOURCES
    affordable = int(_WORK / max(1, sum(layer.work for layer in set(ran))))
    return min(ran[0].reaching.numel(), most, max(least, affordable))


def _shares_reached(
    network: nn.Module, layers: list["_ChannelLayer"], samples: Tensor
) -> list[float]:
    """For every call of a layer between the first and the last, the mean share of `reach`.

    Each of the samples stands for another channel that the first layer makes.
    """
    shares: list[float] = []
    is_first = True

    def spread(layer: _ChannelLayer, x: Tensor) -> Tensor:
        """Which outputs are reached."""
        nonlocal is_first
        if not is_first:
            y = (layer.sum(x) > 0).to(x.dtype)
            shares.append(float(y.mean()))
            return y
        is_first = False
        num_right = layer.reaching.numel()
        chosen = torch.arange(len(x)) * num_right // len(x)
        y = F.one_hot(chosen, num_right).to(x.dtype)
        return y.view(len(x), *[1] * (x.dim() - 2), num_right).expand(*x.shape[:-1], -1).clone()

    for layer in layers:
        layer.connect = partial(spread, layer)
    with torch.no_grad(), linear_functions():
        network(samples)
    return shares[:-1]


class _Reached(torch.autograd.Function):
    """One for what is above zero, else zero; the same for gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient > 0).to(gradient.dtype)


class _ChannelLayer(nn.Module):
    """What connects the channels of a layer: every output channel is the sum of its inputs.

    Attributes:
        connect: from input channels to output channels; tells at first what is reached.
        work: additions and copies of numbers so far.
        reached, reaching: which channels values came in by, and which gradients came back by.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear | SparseLayer) -> None:
        super().__init__()
        self.original = [layer]  # in a list, so that it is no submodule
        self.groups = getattr(layer, "groups", 1)
        self.connect: Callable[[Tensor], Tensor] = self._trace
        self.work = 0
        self.num_weights = layer.weight.numel()
        self.edges = None
        if isinstance(layer, SparseLayer):
            self.edges, self.weights_per_edge = (t.cpu() for t in layer.channel_edges())
            num_left, num_right = layer.num_left, layer.num_right
        else:
            num_right, num_left = layer.weight.shape[0], layer.weight.shape[1] * self.groups
        self.reached = torch.zeros(num_left, dtype=torch.bool)  # inputs, from the network's input
        self.reaching = torch.zeros(num_right, dtype=torch.bool)  # outputs, to the network's output

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, in shape; the channels of a convolution are averaged over the image."""
        layer = self.original[0]
        if not isinstance(layer, nn.Conv2d | SparseConv2d):
            return self.connect(x)
        channels = self.connect(x.mean((-2, -1)))
        height, width = _output_size(layer, x)
        self.work += channels.numel() * height * width
        return channels[..., None, None].expand(*channels.shape, height, width).clone()

    def _trace(self, x: Tensor) -> Tensor:
        if not x.requires_grad:  # from a constant of the network's own, which counts as an input
            x = x.clone().requires_grad_()
        x = _Reached.apply(x)
        self.reached |= (x.detach() > 0).flatten(0, -2).any(0)
        y: Tensor = _Reached.apply(self.sum(x))
        y.register_hook(self._remember)  # type: ignore[no-untyped-call]
        return y.clone()  # the network may add a shortcut to it in place

    def _remember(self, gradient: Tensor) -> None:
        self.reaching |= (gradient > 0).flatten(0, -2).any(0)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the inputs of each output; channels are the last dimension."""
        num_right = self.reaching.numel()
        if self.edges is not None:
            self.work += x[..., 0].numel() * self.edges.shape[1]
            zeros = x.new_zeros(*x.shape[:-1], num_right)
            return zeros.index_add(-1, self.edges[1], x[..., self.edges[0]])
        self.work += x.numel() + x[..., 0].numel() * num_right
        sums = x.reshape(*x.shape[:-1], self.groups, -1).sum(-1)
        return sums.repeat_interleave(num_right // self.groups, dim=-1)

    def effective_weights(self) -> int:
        """The weights of edges from a reached input to an output that reaches the network's."""
        if self.edges is not None:
            effective = self.reached[self.edges[0]] & self.reaching[self.edges[1]]
            return int(self.weights_per_edge[effective].sum())
        left, right = self.reached.view(self.groups, -1), self.reaching.view(self.groups, -1)
        edges = int((left.sum(1) * right.sum(1)).sum())
        return edges * math.prod(getattr(self.original[0], "kernel_size", (1,)))

    def dead_outputs(self) -> int:
        """The number of outputs that no input of the network reaches."""
        return int((self.sum(self.reached.double()) == 0).sum())

    def unused_inputs(self) -> int:
        """The number of inputs that do not reach the network's output through this layer."""
        if self.edges is not None:
            used = torch.zeros_like(self.reached)
            used[self.edges[0, self.reaching[self.edges[1]]]] = True
        else:
            groups = self.reaching.view(self.groups, -1).any(1)
            used = groups.repeat_interleave(self.reached.numel() // self.groups)
        return int((~used).sum())


def _channel_network(model: nn.Module) -> tuple[nn.Module, list[_ChannelLayer]]:
    """A copy of the model that only connects channels, and its layers; tensors are not copied."""
    network = nn.Sequential(linearised(model))
    read = read_by_parents(network)
    for parent_name, parent in list(network.named_modules()):
        for name, child in parent.named_children():
            if f"{parent_name}.{name}" in read:
                continue
            if type(child) in (nn.Conv2d, nn.Linear) or isinstance(child, SparseLayer):
                setattr(parent, name, _ChannelLayer(child))
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            ones = torch.full(parameter.shape, float(name != "bias"), dtype=torch.float64)
            setattr(module, name, nn.Parameter(ones, requires_grad=False))
    network = network.double().cpu().eval()
    return network, [module for module in network.modules() if isinstance(module, _ChannelLayer)]


def _output_size(layer: nn.Conv2d | SparseConv2d, x: Tensor) -> tuple[int, int]:
    """Height and width of what the convolution makes of `x`."""
    image = torch.empty(1, 1, *x.shape[-2:], device="meta")
    kernel = torch.empty(1, 1, *layer.kernel_size, device="meta")
    padding: str | tuple[int, ...] = (0, 0)
    if isinstance(layer, SparseConv2d):
        image = F.pad(image, layer.margins)
    else:
        padding = layer.padding
    size = F.conv2d(image, kernel, None, layer.stride, padding, layer.dilation).shape
    return size[-2], size[-1]
