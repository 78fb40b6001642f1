"""Layers of single weights against the dense ones that they stand for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from expanders import Blueprint, graphs, load, models, save, sparsify
from expanders.errors import SettingError
from expanders.export import plain
from expanders.seeds import stream
from expanders.wiring import connectivity, native, scored
from expanders.wiring.fold import without_norms
from expanders.wiring.layers import SparseConv2d, SparseLinear
from expanders.wiring.unstructured import UnstructuredConv2d

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (5, 3), "stride": 2, "padding": "valid", "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("options", CONVS)
def test_computes_what_the_masked_dense_layer_computes(options, execution):
    conv = nn.Conv2d(6, 10, **options).double()
    taps = 6 * conv.weight[0, 0].numel()
    edges = graphs.random(taps, 10, 70, stream(0, "graph"))
    layer = UnstructuredConv2d.from_dense(conv, edges)
    side = conv.kernel_size[0]
    assert UnstructuredConv2d(6, 10, side, layer.edges).dense_weight().shape[2:] == (side, side)
    mask = np.zeros((10, taps))
    mask[edges[1], edges[0]] = 1
    conv.weight.data *= torch.from_numpy(mask).view_as(conv.weight)
    x = torch.randn(2, 6, 12, 12, dtype=torch.float64)
    layer.execution = execution
    assert layer.chosen_execution() == execution or not native.is_available()
    assert torch.allclose(layer(x), conv(x))
    assert layer.weight.shape == (70,)
    assert layer.density == 70 / (10 * taps)
    assert torch.equal(layer.mask(), conv.weight.abs().sum((2, 3)) > 0)
    channels, counts = layer.channel_edges()
    assert channels.shape[1] == layer.num_edges == int(layer.mask().sum())
    assert counts.sum() == 70
    layer(x).square().sum().backward()
    conv(x).square().sum().backward()
    expected = conv.weight.grad.flatten(1)[edges[1], edges[0]]
    assert torch.allclose(layer.weight.grad, expected)


def wired(seed=0, graph=graphs.random):
    model = models.resnet32()
    report = sparsify(model, graph, 3, seed, granularity="weight")
    return model, report


def test_holds_as_many_weights_as_kernels_would():
    model, report = wired()
    kernels = models.resnet32()
    assert report.live == sparsify(kernels, graphs.random, 3).live
    kinds = {type(m) for m in model.modules() if isinstance(m, SparseConv2d | SparseLinear)}
    assert kinds == {UnstructuredConv2d}
    layer = next(layer for layer in report.layers if layer.name == "blocks.14.conv2")
    weights = 3 * 64 * 9
    assert layer.live == weights
    assert weights / 2 < layer.edges < weights  # nearly all in kernels of their own
    assert layer.density == pytest.approx(weights / (64 * 64 * 9))
    values = connectivity.measure(model, (3, 32, 32))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | UnstructuredConv2d)]
    assert values["weights"] == sum(layer.weight.numel() for layer in layers)
    assert 0.9 < values["effective_share"] <= 1


def test_other_graph_models_and_scores_choose_weights_too():
    model, _ = wired(graph=graphs.rreg)
    edges = model.blocks[14].conv2.edges
    taps = torch.bincount(edges[0], minlength=64 * 9)
    assert taps.min() == taps.max() == 3
    torch.manual_seed(0)
    dense = models.resnet32()
    model = copy.deepcopy(dense)
    sparsify(model, scored.magnitude(scope="layer"), 3, granularity="weight")
    weights = dense.blocks[14].conv2.weight.abs().flatten().sort(descending=True).values
    kept = model.blocks[14].conv2.weight.abs()
    assert torch.equal(kept.sort(descending=True).values, weights[: 3 * 64 * 9])


def test_one_by_one_convolutions_and_linear_layers_stay_what_they_are():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 8))
    sparsify(model, graphs.random, 2, skip=(), granularity="weight")
    assert [type(m) for m in model] == [SparseConv2d, UnstructuredConv2d, nn.Flatten, SparseLinear]


def test_goes_through_a_checkpoint_and_an_export(tmp_path):
    model, _ = wired()
    model.eval()
    save(tmp_path / "a.pt", model, Blueprint("expanders.models.resnet32"))
    again = load(tmp_path / "a.pt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert (tmp_path / "a.pt").stat().st_size < 25 * sum(p.numel() for p in model.parameters())
    for rebuilt in (plain.gathered(model, plain.is_smaller_gathered), plain.dense(model)):
        assert torch.allclose(rebuilt(x), model(x), atol=1e-5)
    folded = without_norms(model)
    assert torch.allclose(folded(x), model(x), atol=1e-4)


def test_computes_over_kernels_where_few_have_a_weight():
    model = models.vgg16bn(width=0.25)
    sparsify(model, graphs.random, 3, granularity="weight")
    layers = [m for m in model.modules() if isinstance(m, UnstructuredConv2d)]
    few = [layer.edge_density <= 0.3 or layer.num_left <= 4 for layer in layers]
    assert set(few) == {True, False}
    chosen = [layer.chosen_execution() == "sparse" for layer in layers]
    assert chosen == [one and native.is_available() for one in few]


def test_can_be_copied_moved_and_given_other_edges():
    conv = nn.Conv2d(8, 8, 3)
    one, other = (
        UnstructuredConv2d.from_dense(conv, graphs.random(72, 8, 40, stream(seed, "graph")))
        for seed in (0, 1)
    )
    copied = copy.deepcopy(one).double()
    assert torch.equal(copied.dense_weight().float(), one.dense_weight())
    assert torch.equal(copied.kernels().dense_weight(), copied.dense_weight())
    copied.load_state_dict(other.state_dict())
    assert set(other.state_dict()) == {"weight", "bias", "edges"}
    x = torch.randn(1, 8, 9, 9, dtype=torch.float64)
    copied.execution = "sparse"
    assert torch.allclose(copied(x), copied.kernels()(x))
    assert torch.allclose(copied(x).float(), other(x.float()), atol=1e-5)


def test_an_unknown_granularity_is_refused():
    with pytest.raises(SettingError, match="graph.granularity=row: choose kernel or weight"):
        sparsify(models.resnet32(), granularity="row")
