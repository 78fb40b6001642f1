"""A convolution whose edges are single weights: the granularity of most pruning methods.

It serves to compare: the same number of live weights, spread over many more kernels. As in the
other sparse layers only what exists is stored, with its position; but it computes densely.
"""

import math

import torch
from torch import Tensor, nn

from expanders.wiring.layers import SparseConv2d, checked_edges, positions
from expanders.wiring.operator import Execution


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

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        edges: Tensor,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] | str = (0, 0),
        dilation: tuple[int, int] = (1, 1),
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
        self._execution = "dense"
        self.num_taps = in_channels * math.prod(kernel_size)
        self.register_buffer("edges", checked_edges(edges, self.num_taps, out_channels))
        self.weight = nn.Parameter(torch.zeros(edges.shape[1]))

    @property
    def execution(self) -> Execution:
        """Always "dense": there is no operator over single weights."""
        return "dense"

    @execution.setter
    def execution(self, execution: Execution) -> None:
        self._execution = "dense"

    @property
    def num_edges(self) -> int:
        """Number of kernels that have a live weight."""
        return self.channel_edges()[0].shape[1]

    @property
    def density(self) -> float:
        """Share of the possible weights that exist, between 0 and 1."""
        return self.weight.numel() / (self.num_taps * self.num_right)

    def channel_edges(self) -> tuple[Tensor, Tensor]:
        """The kernels that have a live weight, and how many each has."""
        taps = self.num_taps // self.num_left
        places = torch.div(self.edges[0], taps, rounding_mode="floor")
        kernels = self.edges[1] * self.num_left + places
        flat, counts = torch.unique(kernels, return_counts=True)
        left, right = flat % self.num_left, flat // self.num_left
        return torch.stack([left, right]), counts

    def dense_weight(self) -> Tensor:
        """The weight of the equivalent dense layer, zero off the graph; differentiable.

        Shape (num_right, num_left, *kernel_size).
        """
        empty = self.weight.new_zeros(self.num_right * self.num_taps)
        weight = empty.index_copy(0, positions(self.edges, self.num_taps), self.weight)
        return weight.view(self.num_right, self.num_left, *self.kernel_size)

    def mask(self) -> Tensor:
        """Which kernels have a live weight: bool, shape (num_right, num_left)."""
        left, right = self.channel_edges()[0]
        mask = self.edges.new_zeros(self.num_right, self.num_left, dtype=torch.bool)
        mask[right, left] = True
        return mask

    def _live_part(self, dense_weight: Tensor) -> Tensor:
        return dense_weight.flatten(1)[self.edges[1], self.edges[0]]
