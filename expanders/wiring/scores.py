"""Scores: how much a dense model would lose with an edge.

Every score is a function of one signature,

    score(model, masks, batches, **options) -> {layer: scores}

`model` is dense. `masks` holds a mask variable m per layer to wire, float64, which multiplies the
layer's weight W: 1 where an edge exists and 0 where one was removed. It has the shape (num_right,
num_left, 1, ...) where an edge is a kernel, and W's where it is a single weight. `batches` are
labelled training images as (inputs, labels, share of all images); a score without data gets a batch
of no images, for their shape. Returned are float64 scores of the shapes of `masks`; the highest are
kept. A derivative by m is that by W times W, summed over what the edge carries. A new score is one
such function and one file in `conf/graph/`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from expanders.errors import SettingError
from expanders.wiring.linear import linear_functions, linearised

Masks = Mapping[str, Tensor]
Batch = tuple[Tensor, Tensor, float]
Score = Callable[..., dict[str, Tensor]]


def magnitude(model: nn.Module, masks: Masks, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The sum of the squares of an edge's weights: the largest weights are kept."""
    squares = {name: _weight(model, name).detach().double().square() for name in masks}
    return {name: squares[name].sum_to_size(mask.shape) for name, mask in masks.items()}


def snip(model: nn.Module, masks: Masks, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """|dL/dm|, L the mean cross-entropy: SNIP (Lee, Ajanthan, Torr, ICLR 2019).

    Batch norms use the statistics of the batch. In several rounds, this is the iterative SNIP of
    de Jorge et al. (ICLR 2021).
    """
    total = _zeros(masks)
    for _, loss in _losses(model, masks, batches):
        _add(total, loss, masks)
    return {name: score.abs() for name, score in total.items()}


def grasp(
    model: nn.Module, masks: Masks, batches: Sequence[Batch], temperature: float = 200.0
) -> dict[str, Tensor]:
    """d/dm of |g|^2 / 2, g = dL/dW: GraSP (Wang, Zhang, Grosse, ICLR 2020).

    Kept are the edges whose absence would reduce the norm of the gradient most. The paper's score,
    of what is lost without an edge, is the same with the other sign, and the lowest are kept. W are
    the weights of all convolutions and linear layers. The logits are divided by `temperature`, as
    in the authors' code. Batch norms use the statistics of the batch.
    """
    total = _zeros(masks)
    whole: list[Tensor] = []  # g over all images
    for weights, loss in _losses(model, masks, batches, temperature):
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        whole = [a + b for a, b in zip(whole, gradients, strict=True)] if whole else [*gradients]
    for weights, loss in _losses(model, masks, batches, temperature):
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        products = [(a * b).sum() for a, b in zip(whole, gradients, strict=True)]
        _add(total, torch.stack(products).sum(), masks)
    return total


def synflow(model: nn.Module, masks: Masks, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """m dR/dm, R the flow through all paths: SynFlow (Tanaka et al., NeurIPS 2020).

    R is the sum of the outputs for an image of ones, with the absolute values of all weights, in
    the network without biases, norms and activations (which at the start, and for positive values,
    are the identity). It grows beyond float32 with depth, hence float64; where even that is not
    enough, image and outputs are scaled down, which scales all scores alike.
    """
    if not batches:
        raise SettingError("images", None, "synflow needs the shape of an image: pass some images")
    network = linearised(model)
    inputs = batches[0][0]
    tensors = [*network.named_parameters(), *network.named_buffers()]
    values = {n: _absolute(n, tensor) for n, tensor in tensors if tensor.is_floating_point()}
    image = torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)
    for scale in (1.0, 2.0**-500):  # of the values on their way, and of the gradients back
        masked = {f"{n}.weight": values[f"{n}.weight"] * mask for n, mask in masks.items()}
        with linear_functions():
            flow = scale * functional_call(network, values | masked, (scale * image,)).sum()
        gradients = torch.autograd.grad(flow, [*masks.values()], materialize_grads=True)
        if all(gradient.isfinite().all() for gradient in gradients):
            break
    return {n: m.detach() * g for (n, m), g in zip(masks.items(), gradients, strict=True)}


def _absolute(name: str, tensor: Tensor) -> Tensor:
    """The absolute values of a tensor in float64; of a bias zeros."""
    values = tensor.detach().abs().double()
    return torch.zeros_like(values) if name.endswith("bias") else values


def _losses(
    model: nn.Module, masks: Masks, batches: Sequence[Batch], temperature: float = 1.0
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """For every batch the weights of all convolutions and linear layers, masked, and its loss.

    The losses add up to the mean cross-entropy, of logits / temperature, over all images.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    for inputs, labels, share in batches:
        weights = {
            f"{name}.weight": layer.weight * masks[name].to(layer.weight.dtype)
            if name in masks
            else layer.weight
            for name, layer in model.named_modules()
            if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
        }
        logits = functional_call(model, weights, (inputs,))
        yield [*weights.values()], share * F.cross_entropy(logits / temperature, labels)


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight")


def _zeros(masks: Masks) -> dict[str, Tensor]:
    return {name: torch.zeros_like(mask) for name, mask in masks.items()}


def _add(total: dict[str, Tensor], value: Tensor, masks: Masks) -> None:
    """Add the derivatives of `value` by the masks."""
    gradients = torch.autograd.grad(value, [*masks.values()], materialize_grads=True)
    for sum_, gradient in zip(total.values(), gradients, strict=True):
        sum_ += gradient
