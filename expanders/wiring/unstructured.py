"""A convolution whose edges are single weights: the granularity of most pruning methods.

It serves to compare: the same number of live weights, spread over many more kernels. As in the
other sparse layers only what exists is stored, with its position. What computes are whole kernels:
all of them (dense), or those that have a live weight (sparse).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from expanders.wiring.geometry import Size
from expanders.wiring.layers import SparseConv2d, checked_edges, positions


class UnstructuredConv2d(SparseConv2d):
    """A 2-d convolution that has weights only on the edges of a graph from taps to outputs.

    A tap is one position in the window that a kernel sees of one input channel. The taps of an
    image with C channels and kernels of h x w are numbered from 0 to C h w - 1, channel by channel,
    each row by row.

    Attributes:
        weight: live weights, shape (num_weights,), in the order of `edges`.
        edges: buffer, int64, shape (2, num_weights); row 0 holds taps, row 1 output channels,
            sorted by output, then by tap.

    Arguments, input, output and errors are those of `SparseConv2d`.
    """

    _channels: Tensor
    _counts: Tensor
    _places: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        edges: Tensor,
        *,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            edges[:, :0],
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
            bias=bias,
        )
        self.num_taps = in_channels * math.prod(self.kernel_size)
        self.register_buffer("edges", checked_edges(edges, self.num_taps, out_channels))
        self.weight = nn.Parameter(torch.zeros(edges.shape[1]))
        self._find_kernels()

    def _find_kernels(self) -> None:
        """Number the kernels that have a live weight.

        Sets the channels that they connect, (2, K), how many live weights each has, (K,), and the
        place of each live weight in all of them, (num_weights,).
        """
        taps = math.prod(self.kernel_size)
        left = torch.div(self.edges[0], taps, rounding_mode="floor")
        kernels = self.edges[1] * self.num_left + left
        flat, numbers, counts = torch.unique(kernels, return_inverse=True, return_counts=True)
        channels = torch.stack([flat % self.num_left, flat // self.num_left])
        places = numbers * taps + self.edges[0] % taps
        for name, found in (("_channels", channels), ("_counts", counts), ("_places", places)):
            self.register_buffer(name, found, persistent=False)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._find_kernels()

    @property
    def num_edges(self) -> int:
        """Number of kernels that have a live weight."""
        return self._channels.shape[1]

    @property
    def density(self) -> float:
        """Share of the possible weights that exist, between 0 and 1."""
        return self.weight.numel() / (self.num_taps * self.num_right)

    def channel_edges(self) -> tuple[Tensor, Tensor]:
        """The kernels that have a live weight, and how many each has."""
        return self._channels, self._counts

    def kernels(self) -> SparseConv2d:
        """The same convolution with whole kernels, zeros included, where there is a live weight."""
        edges, weight = self._kernels()
        layer = SparseConv2d(
            self.num_left,
            self.num_right,
            self.kernel_size,
            edges,
            stride=self.stride,
            padding=(0, 0),
            dilation=self.dilation,
            padding_mode=self.padding_mode,
        )
        layer.margins, layer.relu = self.margins, self.relu
        layer.weight, layer.bias = nn.Parameter(weight.detach()), self.bias
        return layer.train(self.training)

    def dense_weight(self) -> Tensor:
        """The weight of the equivalent dense layer, zero off the graph; differentiable.

        Shape (num_right, num_left, *kernel_size).
        """
        empty = self.weight.new_zeros(self.num_right * self.num_taps)
        weight = empty.index_copy(0, positions(self.edges, self.num_taps), self.weight)
        return weight.view(self.num_right, self.num_left, *self.kernel_size)

    def _kernels(self) -> tuple[Tensor, Tensor]:
        taps = math.prod(self.kernel_size)
        empty = self.weight.new_zeros(self.num_edges * taps)
        weight = empty.index_copy(0, self._places, self.weight)
        return self._channels, weight.view(-1, *self.kernel_size)

    def _live_part(self, dense_weight: Tensor) -> Tensor:
        return dense_weight.flatten(1)[self.edges[1], self.edges[0]]
