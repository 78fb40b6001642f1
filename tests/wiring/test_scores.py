"""Scores against finite differences, sums over paths and counts by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from expanders import models
from expanders.errors import SettingError
from expanders.wiring import scores
from expanders.wiring.initialization import initialize

NOTHING = [(torch.empty(0, 3, 12, 12), torch.empty(0, dtype=torch.int64), 0.0)]  # for the shape


def small():
    """Kernels of three sizes, batch norms, a grouped layer; 6 classes; float64."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 5), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    )
    initialize(model, 3)
    nn.init.normal_(model[12].weight, std=0.5, generator=torch.Generator().manual_seed(2))
    return model.double()


def halves():
    """Two batches of six images."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 3, 12, 12, generator=generator, dtype=torch.float64)
    labels = torch.arange(12) % 6
    return [(x[:6], labels[:6], 0.5), (x[6:], labels[6:], 0.5)]


def masks_of(model, granularity):
    masks = {}
    for name in ("0", "3", "8", "12"):
        weight = model.get_submodule(name).weight
        kernel = weight.shape[2:] if granularity == "weight" else [1] * (weight.ndim - 2)
        shape = (*weight.shape[:2], *kernel)
        masks[name] = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    return masks


def loss_of(model, temperature=1.0):
    model.eval()
    model[1].train(), model[4].train()
    parts = [nn.functional.cross_entropy(model(x) / temperature, y) for x, y, _ in halves()]
    return sum(parts) / 2


def gradient_flow(model, temperature=200.0):
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    gradients = torch.autograd.grad(loss_of(model, temperature), weights)
    return sum(g.square().sum() for g in gradients) / 2


def slope(value, name, edge, step=1e-4):
    """The derivative of a value of the network by one mask variable, from central differences."""
    ends = []
    for factor in (1 + step, 1 - step):
        model = small()
        model.get_submodule(name).weight.data[edge] *= factor
        ends.append(value(model).item())
    return (ends[0] - ends[1]) / (2 * step)


EDGES = {"kernel": [(0, 0), (3, 2), (5, 1)], "weight": [(0, 0, 0, 0), (3, 2, -1, -1)]}


@pytest.mark.parametrize("granularity", ["kernel", "weight"])
@pytest.mark.parametrize(
    ("score", "value", "sign"),
    [(scores.snip, loss_of, abs), (scores.grasp, gradient_flow, float)],
)
def test_a_score_is_the_derivative_by_the_mask(score, value, sign, granularity):
    model = small()
    found = score(model, masks_of(model, granularity), halves())
    assert sum((values < 0).any() for values in found.values()) == (4 if sign is float else 0)
    for name in ("0", "3", "8"):
        for edge in EDGES[granularity]:
            expected = sign(slope(value, name, edge))
            scale = found[name].abs().max().item()
            assert found[name][edge].item() == pytest.approx(expected, rel=1e-4, abs=1e-6 * scale)


def test_grasp_keeps_what_carries_the_gradient():
    """The sign: without the edges that are kept, less of the gradient is left than without others.

    Wang et al.: remove the weights whose removal reduces the gradient flow least.
    """
    model = small()
    found = scores.grasp(model, masks_of(model, "kernel"), halves())["8"]
    order = found.flatten().argsort()
    left = []
    for removed in (order[-3:], order[:3]):
        changed = small()
        changed[8].weight.data.flatten(0, 1)[removed] *= 0.9
        left.append(gradient_flow(changed).item())
    assert left[0] < gradient_flow(model).item() < left[1]


def test_under_batch_norm_a_channels_snip_scores_cancel():
    """A batch norm undoes the scale of an output channel: the signed derivatives add up to zero."""
    model = small()
    for norm in (model[1], model[4]):
        norm.eps = 1e-30
    masks = masks_of(model, "kernel")
    total = torch.zeros(8, 3, 1, 1, dtype=torch.float64)
    for _, loss in scores._losses(model, masks, halves()):
        total += torch.autograd.grad(loss, masks["0"])[0]
    assert total.sum(1).abs().max() < 1e-12 * total.abs().max()


@pytest.mark.parametrize("granularity", ["kernel", "weight"])
def test_synflow_conserves_the_flow_of_a_chain(granularity):
    """Every layer of a chain without biases has scores that sum to the flow at its end."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(2, 12), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    layers = {"0": model[0], "4": model[4], "9": model[9]}
    kernel = {n: m.weight.shape[2:] for n, m in layers.items()}
    masks = {
        name: torch.ones(
            *layer.weight.shape[:2],
            *(kernel[name] if granularity == "weight" else [1] * len(kernel[name])),
            dtype=torch.float64,
            requires_grad=True,
        )
        for name, layer in layers.items()
    }
    found = scores.synflow(model, masks, NOTHING)
    sums = [values.sum().item() for values in found.values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    assert sums[0] > 0
    inflow = found["0"].flatten(1).sum(1)  # of each channel: what comes in goes out again
    assert torch.allclose(inflow, found["4"].transpose(0, 1).flatten(1).sum(1), rtol=1e-12)


def test_synflow_counts_paths():
    """With weights of 1 and -1 a score is the number of paths through the edge."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.Linear(2, 1))
    matrices = [[[1, -1], [0, 1], [0, -1]], [[1, 0, 1], [-1, 1, 0]], [[1, -1]]]
    for layer, matrix in zip((model[0], model[2], model[3]), matrices, strict=True):
        layer.weight.data = torch.tensor(matrix, dtype=torch.float32)
    masks = {
        n: torch.ones_like(model.get_submodule(n).weight, dtype=torch.float64).requires_grad_()
        for n in ("0", "2", "3")
    }
    found = scores.synflow(model, masks, [(torch.empty(0, 2), torch.empty(0), 0.0)])
    assert found["0"].tolist() == [[2, 2], [0, 1], [0, 1]]
    assert found["2"].tolist() == [[2, 0, 1], [2, 1, 0]]
    assert found["3"].tolist() == [[3, 3]]


def test_synflow_leaves_the_model_and_its_signs_alone():
    model = models.resnet32()
    initialize(model, 0)
    before = copy.deepcopy(model.state_dict())
    mask = torch.ones(16, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    scores.synflow(model, {"conv1": mask}, NOTHING)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_a_flow_beyond_float32_and_even_float64_has_scores():
    depth = 200
    model = nn.Sequential(*[nn.Linear(10, 10) for _ in range(depth)])
    for layer in model:
        nn.init.constant_(layer.weight, 4.0)
    masks = {
        str(i): torch.ones(10, 10, dtype=torch.float64, requires_grad=True) for i in range(depth)
    }
    found = scores.synflow(model, masks, [(torch.empty(0, 10), torch.empty(0), 0.0)])
    logs = np.array([math.log10(values.sum().item()) for values in found.values()])
    exact = depth * math.log10(40) + 1 - 1000 * math.log10(2)
    assert exact + 1000 * math.log10(2) > 308
    assert logs == pytest.approx(exact, abs=1e-9)


def test_synflow_of_a_deep_network_is_finite():
    model = models.resnet152()
    initialize(model, 0)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    masks = {
        n: torch.ones(*m.weight.shape[:2], 1, 1, dtype=torch.float64, requires_grad=True)
        for n, m in layers.items()
        if n in ("conv1", "layer3.20.conv2", "layer4.2.conv3")
    }
    found = scores.synflow(model, masks, NOTHING)
    assert all(values.isfinite().all() and (values > 0).any() for values in found.values())
    assert found["conv1"].sum() > 1e38  # more than float32 holds


def test_synflow_says_that_it_needs_a_shape():
    with pytest.raises(SettingError, match="synflow needs the shape of an image"):
        scores.synflow(small(), {}, [])
