"""What a network costs: floating-point operations over its edges, and in its dense twin."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from expanders.wiring.layers import SparseConv2d, SparseLayer


class Flops(NamedTuple):
    """Operations for one image, forward; a multiply-add counts as two.

    Attributes:
        live: of the network.
        dense: of its dense twin.
    """

    live: int
    dense: int


def count_flops(model: nn.Module, input_shape: tuple[int, ...]) -> Flops:
    """Count the operations of convolutions, linear layers and other products of matrices.

    One image runs through a copy of the model, in evaluation mode and with every layer computed
    densely, while PyTorch counts. Additions of biases, norms and activations do not count. Of what
    its dense twin needs, a sparse layer needs the share of its live weights: 2 * live weights *
    positions in the output. (A layer of single weights computes whole kernels, which is more.)

    Args:
        model: any network, sparse or dense.
        input_shape: of one image, such as (3, 32, 32).
    """
    twin = copy.deepcopy(model).eval()
    saved: list[int] = []

    def count(layer: SparseLayer, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channels = output.shape[-3 if isinstance(layer, SparseConv2d) else -1]
        weights = layer.num_left * layer.num_right * math.prod(layer.kernel_size)
        missing = weights - layer.weight.numel()
        saved.append(2 * missing * (output.numel() // channels))

    for module in twin.modules():
        if isinstance(module, SparseLayer):
            module.execution = "dense"
            module.register_forward_hook(count)
    parameter = next(twin.parameters(), torch.zeros(()))
    image = torch.zeros((1, *input_shape), dtype=parameter.dtype, device=parameter.device)
    # With gradients: without, PyTorch takes fused ways through attention, which are not counted.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        twin(image)
    dense: int = counter.get_total_flops()
    return Flops(dense - sum(saved), dense)
