"""Initial values of a network's parameters, from a named random stream."""

from typing import Literal

import torch
from torch import nn

from expanders.seeds import derive


@torch.no_grad()
def initialize(model: nn.Module, seed: int, name: Literal["init", "redraw"] = "init") -> None:
    """Draw all weights of a dense model anew, in place; each layer has its own random stream.

    Convolutions: Kaiming normal, fan-out, for ReLU (He et al., 2015). Linear layers: N(0, 0.01²).
    Biases 0, norms the identity. Draw before `sparsify`, which keeps the values on the edges: all
    graphs at one seed then start from the same dense network.

    Args:
        model: any module; layers of other kinds keep their values.
        seed: of the streams.
        name: of the streams: other weights for the same seed.
    """
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            generator = torch.Generator(module.weight.device)
            generator.manual_seed(derive(seed, name, layer))
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            else:
                nn.init.normal_(module.weight, std=0.01, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
