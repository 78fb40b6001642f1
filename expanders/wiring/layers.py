"""Layers whose weights are the edges of a bipartite graph between input and output channels.

A layer stores one kernel (`SparseConv2d`) or one scalar (`SparseLinear`) per edge and nothing for a
missing edge. There is no dense parameter with a mask over it: what does not exist cannot leak, and
gradients, optimizer state and checkpoints scale with the number of edges.

How a layer computes is separate from what it is: `execution` is "dense" (the live weights are
scattered into a dense kernel, which the framework's own operation then uses), "sparse" (over the
edges only) or "auto" (the faster one); see `expanders.wiring.operator`.
"""

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expanders.errors import SettingError, check_choice
from expanders.wiring.functional import conv2d, linear
from expanders.wiring.geometry import PaddingMode, Size, margins_of, pair
from expanders.wiring.operator import Execution, choose

Edges = Tensor | npt.NDArray[np.int64]
"""Edges of a graph: int64, shape (2, num_edges), sorted by output, then by input channel."""


class SparseLayer(nn.Module):
    """What `SparseConv2d` and `SparseLinear` share: edges, live weights and their dense views.

    Attributes:
        weight: live weights, shape (num_edges, *kernel_size), in the order of `edges`.
        bias: shape (num_right,), or None.
        edges: buffer, int64, shape (2, num_edges); row 0 holds input channels, row 1 output
            channels, sorted by output, then by input channel.
        execution: how to compute, "auto" (default), "dense" or "sparse"; another value raises
            SettingError.
    """

    edges: Tensor
    bias: nn.Parameter | None
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, int] = (1, 1)

    def __init__(
        self, num_left: int, num_right: int, edges: Tensor, kernel_size: tuple[int, ...], bias: bool
    ) -> None:
        super().__init__()
        self.num_left = num_left
        self.num_right = num_right
        self._execution: Execution = "auto"
        self.register_buffer("edges", checked_edges(edges, num_left, num_right))
        self.weight = nn.Parameter(torch.zeros(edges.shape[1], *kernel_size))
        self.bias = nn.Parameter(torch.zeros(num_right)) if bias else None

    @property
    def num_edges(self) -> int:
        """Number of live kernels."""
        return self.weight.shape[0]

    @property
    def density(self) -> float:
        """Share of the possible weights that exist, between 0 and 1."""
        return self.edge_density

    @property
    def edge_density(self) -> float:
        """Share of the possible edges between channels that exist, between 0 and 1."""
        return self.num_edges / (self.num_left * self.num_right)

    def channel_edges(self) -> tuple[Tensor, Tensor]:
        """The channels that are connected, as `edges`, and how many weights each edge carries."""
        per_edge = self.weight[0].numel() if self.num_edges else 1
        return self.edges, torch.full_like(self.edges[0], per_edge)

    def dense_weight(self) -> Tensor:
        """The weight of the equivalent dense layer, zero off the graph; differentiable.

        Shape (num_right, num_left, *kernel_size).
        """
        shape = (self.num_right, self.num_left, *self.weight.shape[1:])
        if self.num_edges == self.num_left * self.num_right:
            return self.weight.view(shape)  # sorted edges of a complete graph are in dense order
        empty = self.weight.new_zeros(self.num_right * self.num_left, *self.weight.shape[1:])
        return empty.index_copy(0, positions(self.edges, self.num_left), self.weight).view(shape)

    def mask(self) -> Tensor:
        """Which kernels exist: bool, shape (num_right, num_left)."""
        left, right = self.channel_edges()[0]
        mask = self.edges.new_zeros(self.num_right, self.num_left, dtype=torch.bool)
        mask[right, left] = True
        return mask

    @property
    def execution(self) -> Execution:
        """How the layer shall compute."""
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        check_choice("execution", execution, Execution)
        self._execution = execution

    def chosen_execution(self) -> Literal["dense", "sparse"]:
        """How the layer computes, where its weights are now."""
        return self._choose(self.weight)

    def _choose(self, x: Tensor) -> Literal["dense", "sparse"]:
        """How the layer computes `x`."""
        return choose(
            self._execution,
            self.edge_density,
            self.num_left,
            x,
            self.weight,
            self.kernel_size,
            self.stride,
        )

    @torch.no_grad()
    def _take_from(self, dense: nn.Conv2d | nn.Linear) -> None:
        """Keep of `dense` what lies on the graph: values, device, dtype and training mode."""
        self.to(device=dense.weight.device, dtype=dense.weight.dtype)
        self.weight.copy_(self._live_part(dense.weight))
        self.weight.requires_grad_(dense.weight.requires_grad)
        if self.bias is not None and dense.bias is not None:
            self.bias.copy_(dense.bias)
            self.bias.requires_grad_(dense.bias.requires_grad)
        self.train(dense.training)

    def _live_part(self, dense_weight: Tensor) -> Tensor:
        return dense_weight[self.edges[1], self.edges[0]]

    def extra_repr(self) -> str:
        """Shape and number of edges, for `print(model)`."""
        return (
            f"{self.num_left}, {self.num_right}, edges={self.num_edges}, "
            f"density={self.density:.4f}, bias={self.bias is not None}"
        )


class SparseConv2d(SparseLayer):
    """A 2-d convolution that has kernels only on the edges of a graph.

    Args:
        in_channels: number of input channels, the left side of the graph.
        out_channels: number of output channels, the right side.
        kernel_size: height and width of a kernel, in pixels, or one number for both.
        edges: int64, shape (2, num_edges).
        stride, padding, dilation, padding_mode, bias: as in `torch.nn.Conv2d`.

    Attributes:
        relu: whether negative outputs become 0 (False unless `expanders.wiring.fold` found a ReLU).

    Input (N, in_channels, H, W), output (N, out_channels, H', W'); another shape of input raises
    RuntimeError.

    Raises:
        SettingError: if the edges do not fit the channels, or are not sorted and distinct; if a
            size has more than two numbers, or there is no such padding or padding_mode.
    """

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
        check_choice("padding_mode", padding_mode, PaddingMode)
        kernel = pair(kernel_size, "kernel_size")
        super().__init__(in_channels, out_channels, edges, kernel, bias)
        self.kernel_size: tuple[int, int] = kernel
        self.stride = pair(stride, "stride")
        self.dilation = pair(dilation, "dilation")
        if padding == "same" and self.stride != (1, 1):
            raise SettingError("padding", padding, "goes with a stride of 1 only")
        self.margins = margins_of(padding, kernel, self.dilation)
        self.padding_mode = padding_mode
        self.relu = False

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, edges: Edges, *, bias: bool = True) -> Self:
        """The convolution `conv` with only the kernels on `edges`, and their present values.

        Raises SettingError if `conv` has groups, or as the layer itself does.
        """
        if conv.groups != 1:
            raise SettingError("groups", conv.groups, "only a convolution of one group is wired")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            torch.as_tensor(edges),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            padding_mode=conv.padding_mode,
            bias=bias and conv.bias is not None,
        )
        layer._take_from(conv)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x`, shape (N, in_channels, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.num_left:
            raise RuntimeError(f"expected images (N, {self.num_left}, H, W), got {tuple(x.shape)}")
        margins = self.margins
        if self.padding_mode != "zeros":
            x = F.pad(x, margins, mode=self.padding_mode)
            margins = (0, 0, 0, 0)
        if self._choose(x) == "sparse":
            edges, weight = self._kernels()
            geometry = (self.stride, margins, self.dilation)
            return conv2d(
                x, weight, edges, self.num_right, *geometry, bias=self.bias, relu=self.relu
            )
        left, right, top, bottom = margins
        if (left, top) != (right, bottom):
            x = F.pad(x, margins)
            left = top = 0
        weight = self.dense_weight()
        y = F.conv2d(x, weight, self.bias, self.stride, (top, left), self.dilation)
        return F.relu(y, inplace=True) if self.relu else y

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """The channels that kernels connect, as `edges`, and these kernels; differentiable."""
        return self.edges, self.weight

    def extra_repr(self) -> str:
        """Shape, geometry and number of edges, for `print(model)`."""
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}"


class SparseLinear(SparseLayer):
    """A linear layer that has weights only on the edges of a graph.

    Args:
        in_features: number of inputs, the left side of the graph.
        out_features: number of outputs, the right side.
        edges: int64, shape (2, num_edges).
        bias: whether to add a bias.

    Input (..., in_features), output (..., out_features).

    Raises:
        SettingError: if the edges do not fit the features, or are not sorted and distinct.
    """

    def __init__(
        self, in_features: int, out_features: int, edges: Tensor, *, bias: bool = True
    ) -> None:
        super().__init__(in_features, out_features, edges, (), bias)

    @classmethod
    def from_dense(cls, linear: nn.Linear, edges: Edges, *, bias: bool = True) -> Self:
        """The layer `linear` with only the weights on `edges`, and their present values."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            torch.as_tensor(edges),
            bias=bias and linear.bias is not None,
        )
        layer._take_from(linear)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Transform `x`, shape (..., in_features)."""
        if self._choose(x) == "sparse":
            tokens = x.reshape(-1, self.num_left)
            y = linear(tokens, self.weight, self.bias, self.edges, self.num_right)
            return y.view(*x.shape[:-1], self.num_right)
        return F.linear(x, self.dense_weight(), self.bias)


def positions(edges: Tensor, num_left: int) -> Tensor:
    """Position of each edge in the row-major (num_right, num_left) matrix."""
    return edges[1] * num_left + edges[0]


def checked_edges(edges: Tensor, num_left: int, num_right: int) -> Tensor:
    """A copy of `edges` in int64, if it is a list of edges between these two sides."""
    what = f"graph of {num_left}x{num_right} channels"
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise SettingError("edges.shape", tuple(edges.shape), f"{what}: must be (2, num_edges)")
    edges = edges.to(torch.int64, copy=True)
    if edges.is_meta or edges.numel() == 0:
        return edges
    for side, row, size in (("input", edges[0], num_left), ("output", edges[1], num_right)):
        lowest, highest = int(row.min()), int(row.max())
        if lowest < 0 or highest >= size:
            raise SettingError(
                f"edges ({side} channels)",
                f"{lowest}..{highest}",
                f"{what}: must lie between 0 and {size - 1}",
            )
    if not bool((positions(edges, num_left).diff() > 0).all()):
        raise SettingError(
            "edges", "unsorted or repeated", f"{what}: sort by output, then by input; no edge twice"
        )
    return edges
