import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expanders.errors import SettingError
from expanders.wiring.draw import Wiring
from expanders.wiring.layers import SparseConv2d, SparseLinear
from expanders.wiring.unstructured import UnstructuredConv2d
from expanders.wiring.wire import swap, wire


def random_edges(num_left: int, num_right: int, num_edges: int, seed: int = 0) -> torch.Tensor:
    chosen = np.random.default_rng(seed).choice(num_left * num_right, num_edges, replace=False)
    right, left = np.divmod(np.sort(chosen), num_left)
    return torch.from_numpy(np.stack([left, right]))


def with_zeros(dense: nn.Conv2d | nn.Linear, edges: torch.Tensor) -> nn.Conv2d | nn.Linear:
    """A dense layer that is zero off the graph."""
    twin = copy.deepcopy(dense)
    mask = torch.zeros(dense.weight.shape[:2], dtype=torch.bool)
    mask[edges[1], edges[0]] = True
    with torch.no_grad():
        twin.weight[~mask] = 0
    return twin


convolutions = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([(1, 1), (3, 3), (3, 1), (2, 3), (7, 7)]),
        "stride": st.sampled_from([1, 2, (1, 2)]),
        "padding": st.sampled_from([0, 1, (2, 1)]),
        "dilation": st.sampled_from([1, (2, 1)]),
        "padding_mode": st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
        "bias": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(options=convolutions, density=st.floats(0, 1), seed=st.integers(0, 99))
def test_convolution_equals_dense_with_zeros(options, density, seed):
    torch.manual_seed(seed)
    dense = nn.Conv2d(4, 6, **options, dtype=torch.float64)
    edges = random_edges(4, 6, round(density * 24), seed)
    check_equal(dense, SparseConv2d.from_dense(dense, edges), edges, (2, 4, 13, 15))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolution_takes_padding_by_name(padding):
    dense = nn.Conv2d(4, 6, (3, 5), padding=padding, dtype=torch.float64)
    edges = random_edges(4, 6, 9)
    check_equal(dense, SparseConv2d.from_dense(dense, edges), edges, (2, 4, 8, 9))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
        {"kernel_size": [3, 5], "stride": [2, 1], "padding": [1, 2], "dilation": [1, 2]},
        {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
    ],
)
def test_convolution_takes_sizes_as_torch_does(options):
    dense = nn.Conv2d(4, 6, **options, dtype=torch.float64)
    edges = random_edges(4, 6, 9)
    layer = SparseConv2d(4, 6, edges=edges, **options).double()
    layer.load_state_dict(SparseConv2d.from_dense(dense, edges).state_dict())
    check_equal(dense, layer, edges, (2, 4, 9, 11))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"padding": "sme"}, "padding=sme: choose same or valid"),
        ({"padding": "1"}, "padding=1: choose same or valid"),
        ({"padding_mode": "zero"}, "padding_mode=zero: choose zeros, reflect, replicate or circul"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\): give one number, or two"),
        ({"stride": (1, 2, 1)}, r"stride=\(1, 2, 1\): give one number, or two"),
        ({"padding": [1, 1, 1]}, r"padding=\[1, 1, 1\]: give one number, or two"),
        ({"padding": "same", "stride": 2}, "padding=same: goes with a stride of 1 only"),
        ({"dilation": ()}, r"dilation=\(\): give one number, or two"),
    ],
)
def test_refuses_a_geometry_that_is_none(option, words):
    with pytest.raises(SettingError, match=f"^{words}"):
        SparseConv2d(4, 6, **{"kernel_size": 3, "edges": random_edges(4, 6, 9)} | option)


@settings(max_examples=30, deadline=None)
@given(bias=st.booleans(), num_edges=st.integers(0, 35), batch=st.sampled_from([(), (3,), (2, 3)]))
def test_linear_equals_dense_with_zeros(bias, num_edges, batch):
    dense = nn.Linear(5, 7, bias=bias, dtype=torch.float64)
    edges = random_edges(5, 7, num_edges)
    check_equal(dense, SparseLinear.from_dense(dense, edges), edges, (*batch, 5))


def check_equal(dense, sparse, edges, shape):
    twin = with_zeros(dense, edges)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = torch.randn(shape, dtype=torch.float64).copy_(x.detach()).requires_grad_()
    expected, actual = twin(x), sparse(y)
    torch.testing.assert_close(actual, expected)
    direction = torch.randn_like(expected)
    expected.backward(direction)
    actual.backward(direction)
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(sparse.weight.grad, twin.weight.grad[edges[1], edges[0]])
    if dense.bias is not None:
        torch.testing.assert_close(sparse.bias.grad, twin.bias.grad)


def test_has_one_kernel_per_edge_and_no_other_weight():
    layer = SparseConv2d(8, 4, (3, 3), random_edges(8, 4, 10))
    assert {name: p.numel() for name, p in layer.named_parameters()} == {"weight": 90, "bias": 4}
    assert SparseLinear(8, 4, random_edges(8, 4, 10), bias=False).weight.shape == (10,)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
)
def test_training_never_leaves_the_graph(optimizer):
    layer = SparseConv2d.from_dense(nn.Conv2d(6, 5, 3), random_edges(6, 5, 11))
    steps = optimizer(layer.parameters())
    before = layer.dense_weight().detach().clone()
    for _ in range(5):
        steps.zero_grad()
        layer(torch.randn(2, 6, 8, 8)).square().sum().backward()
        steps.step()
    after = layer.dense_weight()
    assert torch.all(after[~layer.mask()] == 0)
    assert torch.all(after[layer.mask()] != before[layer.mask()])
    assert int(layer.mask().sum()) == 11


def test_copies_and_state_dicts_give_the_same_outputs():
    layer = SparseConv2d.from_dense(nn.Conv2d(6, 5, 3), random_edges(6, 5, 11))
    other = SparseConv2d.from_dense(nn.Conv2d(6, 5, 3), random_edges(6, 5, 11, seed=1))
    x = torch.randn(2, 6, 8, 8)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_compiles():
    layer = SparseConv2d.from_dense(nn.Conv2d(6, 5, 3), random_edges(6, 5, 11))
    x = torch.randn(2, 6, 8, 8)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([[0, 1], [1, 0]], "sort"),
        ([[1, 1], [2, 2]], "twice"),
        ([[0, 3], [0, 0]], "between 0 and 2"),
        ([[-1, 0], [0, 0]], "between 0 and 2"),
        ([[0], [4]], "between 0 and 3"),
        ([0, 1], r"\(2, num_edges\)"),
    ],
)
def test_refuses_edges_that_are_no_graph(edges, words):
    with pytest.raises(SettingError, match=words):
        SparseLinear(3, 4, torch.tensor(edges))


@pytest.mark.parametrize("layer", [SparseConv2d, UnstructuredConv2d])
def test_refuses_convolutions_in_groups(layer):
    with pytest.raises(SettingError, match=r"^groups=2: .* one group"):
        layer.from_dense(nn.Conv2d(4, 4, 3, groups=2), random_edges(2, 4, 5))


@pytest.mark.parametrize("put", [wire, swap])
@pytest.mark.parametrize("granularity", ["kernel", "weight"])
def test_wirings_by_hand_refuse_convolutions_in_groups(put, granularity):
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    by_hand = Wiring({"0": random_edges(4, 4, 5)}, "by hand", granularity=granularity)
    with pytest.raises(SettingError, match=r"^groups=4: by hand, layer 0: .* one group"):
        put(model, by_hand)
    assert type(model[0]) is nn.Conv2d
