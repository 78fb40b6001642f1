"""Scores: how much a dense model would lose with an edge.

Every score is a function of one signature,

    score(model, masks, batches, ..., **options) -> {layer: scores}

`model` is dense. `masks` holds a mask variable m per layer to wire, which multiplies the layer's
weight W: 1 where an edge exists and 0 where one was removed. It has the shape (num_right, num_left,
1, ...) where an edge is a kernel, and W's where it is a single weight. `batches` are labelled
training images as (inputs, labels, share of all images); a score without data gets none. Returned
are float64 scores of the shapes of `masks`; the highest are kept. A derivative by m is that by
W times W, summed over what the edge carries. A new score is one such function and one file in
`conf/graph/`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

Masks = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor, float]
Score = Callable[..., dict[str, Tensor]]


def magnitude(model: nn.Module, masks: Masks, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The sum of the squares of an edge's weights: the largest weights are kept."""
    return {
        name: model.get_parameter(f"{name}.weight")
        .detach()
        .double()
        .square()
        .sum_to_size(mask.shape)
        for name, mask in masks.items()
    }


def snip(model: nn.Module, masks: Masks, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """|dL/dm|, L the mean cross-entropy: SNIP (Lee, Ajanthan, Torr, ICLR 2019).

    Batch norms use the statistics of the batch. Drawn again in several rounds, this is the
    iterative SNIP of de Jorge et al. (ICLR 2021).
    """
    total = {name: torch.zeros_like(mask, dtype=torch.float64) for name, mask in masks.items()}
    for _, loss in _losses(model, masks, batches):
        _add(total, torch.autograd.grad(loss, [*masks.values()], materialize_grads=True))
    return {name: score.abs() for name, score in total.items()}


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight")


def _losses(
    model: nn.Module, masks: Masks, batches: Sequence[Batch], temperature: float = 1.0
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """For every batch the weights of all convolutions and linear layers, masked, and its loss.

    The losses add up to the mean cross-entropy, of logits / temperature, over all images.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    for inputs, labels, share in batches:
        weights = {
            f"{name}.weight": layer.weight * masks[name] if name in masks else layer.weight
            for name, layer in model.named_modules()
            if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
        }
        logits = functional_call(model, weights, (inputs,))
        yield weights, share * F.cross_entropy(logits / temperature, labels)


def _add(total: dict[str, Tensor], gradients: Sequence[Tensor]) -> None:
    for sum_, gradient in zip(total.values(), gradients, strict=True):
        sum_ += gradient
