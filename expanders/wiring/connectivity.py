"""Measures of a whole network: which of its weights lie on a path from input to output.

A path runs from an input channel to an output along edges of the channel graphs, one per layer, and
along skip connections. It takes nothing but connections: biases, normalisation and activations are
left out, so a channel that no input reaches counts as dead even if a bias makes it constant.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expanders.wiring.eligible import read_by_parents
from expanders.wiring.layers import SparseConv2d, SparseLayer
from expanders.wiring.linear import linear_functions, linearised

_SCALE = 1e-290  # of the input: a dense ResNet-152 has some 10^380 paths, a float ends at 10^308


def measure(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, float | int | None]:
    """Measures of any network of convolutions and linear layers, sparse or dense, as a whole.

    `input_shape` is that of one sample, such as (3, 32, 32). A copy of the model, in evaluation
    mode, in which every edge adds its input to its output, is run twice, forward and backward.
    First, channels take the values 0 and 1: reached from the input or not; gradients say so of the
    output. Then a value is the number of paths, as in SynFlow (Tanaka et al., NeurIPS 2020).
    Kernels count as edges, whatever the positions in an image that they see. The model itself stays
    as it is. Returns

    - weights: live ones of all convolutions and linear layers; effective_parameters: those on
      a path from input to output, a kernel with all its weights; effective_share: of weights
    - dead_outputs: over all layers, output channels that no input reaches; unused_inputs: input
      channels of a layer that do not reach the output through it
    - log10_paths: of the number of paths from input channels to entries of the output; None
      without any path, for more than 10^598, and for a model that computes in less than float64
    """
    network, layers = _channel_network(model)
    sample = torch.ones(1, *input_shape, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad(), linear_functions():
        network(sample.clone()).sum().backward()  # it may be changed in place
    for layer in layers:
        layer.counts = True
    with torch.no_grad(), linear_functions():
        paths = float(network(_SCALE * sample.detach()).sum())
    weights = sum(layer.num_weights for layer in layers)
    effective = sum(layer.effective_weights() for layer in layers)
    return {
        "weights": weights,
        "effective_parameters": effective,
        "effective_share": effective / weights if weights else 0.0,
        "dead_outputs": sum(layer.dead_outputs() for layer in layers),
        "unused_inputs": sum(layer.unused_inputs() for layer in layers),
        "log10_paths": math.log10(paths) - math.log10(_SCALE) if 0 < paths < math.inf else None,
    }


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

    It remembers which channels values came in by, and which gradients came back by. `counts`: it
    adds up numbers of paths, instead of telling what is reached.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear | SparseLayer) -> None:
        super().__init__()
        self.original = [layer]  # in a list, so that it is no submodule
        self.groups = getattr(layer, "groups", 1)
        self.counts = False
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
            return self._connect(x)
        channels = self._connect(x.mean((-2, -1)))
        height, width = _output_size(layer, x)
        return channels[..., None, None].expand(*channels.shape, height, width).clone()

    def _connect(self, x: Tensor) -> Tensor:
        if self.counts:
            return self._sum(x)
        if not x.requires_grad:  # from a constant of the network's own, which counts as an input
            x = x.clone().requires_grad_()
        x = _Reached.apply(x)
        self.reached |= (x.detach() > 0).flatten(0, -2).any(0)
        y: Tensor = _Reached.apply(self._sum(x))
        y.register_hook(self._remember)  # type: ignore[no-untyped-call]
        return y.clone()  # the network may add a shortcut to it in place

    def _remember(self, gradient: Tensor) -> None:
        self.reaching |= (gradient > 0).flatten(0, -2).any(0)

    def _sum(self, x: Tensor) -> Tensor:
        """The sum of the inputs of each output; channels are the last dimension."""
        num_right = self.reaching.numel()
        if self.edges is not None:
            zeros = x.new_zeros(*x.shape[:-1], num_right)
            return zeros.index_add(-1, self.edges[1], x[..., self.edges[0]])
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
        return int((self._sum(self.reached.double()) == 0).sum())

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
