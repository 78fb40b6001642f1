"""Measures of whole networks against paths counted by other means."""

import itertools
import math
from functools import partial

import networkx as nx
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expanders import degrees, graphs, models, sparsify
from expanders.wiring import connectivity
from expanders.wiring.layers import SparseConv2d, SparseLinear

POOL = nn.AdaptiveAvgPool2d(1)  # paths count per entry of the output


def conv(num_left, num_right, pairs, size=3):
    left, right = zip(*sorted(pairs, key=lambda pair: pair[::-1]), strict=True)
    edges = torch.tensor([left, right])
    return SparseConv2d(num_left, num_right, (size, size), edges, padding=(1, 1))


@st.composite
def chains(draw):
    """Widths, and edges between successive ones, of which many dead-end."""
    widths = draw(st.lists(st.integers(1, 8), min_size=2, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = list(itertools.pairwise(widths))
    budgets = [draw(st.integers(1, min(a * b, 2 * max(a, b)))) for a, b in shapes]
    edges = [graphs.random(*shape, n, rng) for shape, n in zip(shapes, budgets, strict=True)]
    return widths, edges


@settings(max_examples=60, deadline=None)
@given(chain=chains())
def test_a_chain_agrees_with_all_simple_paths(chain):
    widths, edges = chain
    layers = [
        SparseLinear(a, b, torch.from_numpy(e))
        for a, b, e in zip(widths[:-1], widths[1:], edges, strict=True)
    ]
    values = connectivity.measure(nn.Sequential(*layers), (widths[0],))
    graph = nx.DiGraph(
        ((depth, i), (depth + 1, j)) for depth, e in enumerate(edges) for i, j in e.T.tolist()
    )
    inputs = [(0, i) for i in range(widths[0]) if (0, i) in graph]
    last = len(widths) - 1
    outputs = [(last, j) for j in range(widths[-1]) if (last, j) in graph]
    routes = [path for i in inputs for path in nx.all_simple_edge_paths(graph, i, outputs)]
    assert values["weights"] == graph.number_of_edges()
    assert values["effective_parameters"] == len({edge for route in routes for edge in route})
    if routes:
        assert values["log10_paths"] == pytest.approx(math.log10(len(routes)), abs=1e-9)
    else:
        assert values["log10_paths"] is None

    def seen(start, depth):
        """How many nodes of a depth lie behind one of depth 1."""
        behind = nx.descendants(graph, start) if start in graph else ()
        return sum(node in behind for node in ((depth, i) for i in range(widths[depth])))

    shares = [
        np.mean([seen((1, i), depth) / widths[depth] for i in range(widths[1])])
        for depth in range(2, len(widths) - 1)
    ]
    assert values["reach"] == (pytest.approx(np.mean(shares)) if shares else None)
    ahead = set(inputs).union(*(nx.descendants(graph, i) for i in inputs))
    behind = set(outputs).union(*(nx.ancestors(graph, j) for j in outputs))
    nodes = [(depth, i) for depth, width in enumerate(widths) for i in range(width)]
    dead = [node for node in nodes if node[0] > 0 and node not in ahead]
    unused = [node for node in nodes if node[0] < last and node not in behind]
    assert (values["dead_outputs"], values["unused_inputs"]) == (len(dead), len(unused))


class Residual(nn.Module):
    """A block that adds its input, in place as torchvision's do."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        y = self.body(x)
        y += x
        return y


@pytest.mark.parametrize("side", [1, 5])  # of the image
def test_a_shortcut_leads_around_a_layer(side):
    """Three channels; the block takes 0 to 1, the shortcut all: 2 has no edge, yet a path."""
    block = Residual(conv(3, 3, [(0, 1)]))
    head = conv(3, 1, [(1, 0), (2, 0)])
    values = connectivity.measure(nn.Sequential(block, head, POOL), (3, side, side))
    assert values["effective_parameters"] == values["weights"] == 27
    assert values["log10_paths"] == pytest.approx(math.log10(3))
    assert (values["dead_outputs"], values["unused_inputs"]) == (2, 2 + 1)


def test_kernels_count_with_all_weights_and_dead_ends_do_not():
    """Channel 1 has no input, channel 2 no output."""
    first, second = conv(1, 3, [(0, 0), (0, 2)]), conv(3, 1, [(0, 0), (1, 0)], size=5)
    values = connectivity.measure(
        nn.Sequential(first, nn.BatchNorm2d(3), nn.ReLU(), second, POOL), (1, 8, 8)
    )
    assert values["weights"] == 2 * 9 + 2 * 25
    assert values["effective_parameters"] == 9 + 25
    assert values["effective_share"] == pytest.approx(34 / 68)
    assert values["log10_paths"] == pytest.approx(0)
    assert (values["dead_outputs"], values["unused_inputs"]) == (1, 1)


def test_grouped_convolutions_connect_within_groups():
    model = nn.Sequential(conv(1, 4, [(0, 0)]), nn.Conv2d(4, 6, 1, groups=2), POOL)
    values = connectivity.measure(model, (1, 4, 4))
    assert values["weights"] == 9 + 12
    assert values["effective_parameters"] == 9 + 3  # one input of the first group, three outputs
    assert values["log10_paths"] == pytest.approx(math.log10(3))


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "between",
    [
        nn.GroupNorm(2, 8),
        nn.RMSNorm([8, 4, 4]),
        Called(lambda x: nn.functional.group_norm(x, 2)),
        Called(lambda x: nn.functional.layer_norm(x, x.shape[1:])),
        Called(lambda x: nn.functional.instance_norm(input=x)),
        Called(lambda x: nn.functional.gelu(x).tanh()),
        Called(lambda x: x.relu_()),
    ],
)
def test_norms_and_activations_pass_whether_they_are_modules_or_functions(between):
    edges = graphs.random(8, 8, 16, np.random.default_rng(0))
    first, last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
    middle = nn.Conv2d(8, 8, 1)
    plain = nn.Sequential(first, SparseConv2d.from_dense(middle, edges), last, POOL)
    normed = nn.Sequential(first, between, plain[1], between, last, POOL)
    expected = connectivity.measure(plain, (3, 4, 4))
    assert connectivity.measure(normed, (3, 4, 4)) == expected
    assert expected["effective_parameters"] > 0


@pytest.mark.parametrize("build", [models.vgg16bn, models.resnet32, models.resnet152])
def test_all_of_a_dense_network_is_effective(build):
    values = connectivity.measure(build(), (3, 32, 32))
    assert values["effective_share"] == 1
    assert values["dead_outputs"] == values["unused_inputs"] == 0
    assert math.isfinite(values["log10_paths"])


def test_paths_of_a_dense_chain_are_the_product_of_its_widths():
    widths = [3, 64, 64, 128, 128, *3 * [256], *6 * [512], 512, 10]
    expected = sum(math.log10(width) for width in widths)
    log10_paths = connectivity.measure(models.vgg16bn(), (3, 32, 32))["log10_paths"]
    assert log10_paths == pytest.approx(expected)


def test_biregular_networks_have_no_dead_ends_and_xnet_has():
    paper = partial(degrees.constant, value=3, budget="paper")
    shares = {}
    for graph in (graphs.rreg, graphs.xnet, graphs.random):
        model = models.vgg16bn()
        sparsify(model, graph=graph, degree=paper, seed=0)
        shares[graph.__name__] = connectivity.measure(model, (3, 32, 32))["effective_share"]
    assert shares["rreg"] == 1
    assert 0.7 < shares["random"] < shares["xnet"] < 0.9


class Scaled(nn.Module):
    """A layer with a small scale of its own and a functional activation, as in ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 1e-6))

    def forward(self, x):
        return x + self.scale * nn.functional.relu(self.layer(x))


def test_scales_of_a_network_do_not_count():
    values = connectivity.measure(
        nn.Sequential(Scaled(), nn.LayerNorm(4), nn.GELU(), Scaled()), (4,)
    )
    assert values["effective_share"] == 1
    assert values["log10_paths"] == pytest.approx(math.log10(4 * 5 * 5))


def test_gates_let_paths_through():
    model = torchvision.models.mobilenet_v3_small()
    sparsify(model, degree=3)
    values = connectivity.measure(model, (3, 32, 32))
    assert values["effective_share"] == 1
    assert values["log10_paths"] > 10


class Windows(nn.Module):
    """Attention as Swin computes it: with the weights of its layers, and a functional softmax."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x):
        q, k, v = nn.functional.linear(x, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        attention = nn.functional.softmax(q @ k.mT, dim=-1)
        return nn.functional.linear(attention @ v, self.proj.weight, self.proj.bias)


class Attention(nn.Module):
    """From its queries and from its values, which are different channels of its input."""

    def __init__(self, batch_first):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=batch_first)

    def forward(self, x):
        return self.attention(x[..., :4], x[..., 4:], x[..., 4:])[0]


class Fused(nn.Module):
    """Attention without a module of its own."""

    def forward(self, x):
        q, k, v = x.chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("attention", "features", "ways"),  # from each input to each entry of the output
    [(Windows(), 4, 4), (Attention(True), 7, 4), (Attention(False), 7, 4), (Fused(), 12, 1)],
    ids=["functional", "module", "tokens first", "fused"],
)
def test_attention_connects_whatever_its_logits_are(attention, features, ways):
    """A softmax of large logits has one token, and no gradient: nothing else would count.

    Of the features that are values, each leads to each output, by as many ways as there are
    features within.
    """
    model = nn.Sequential(nn.Linear(50, features), attention, nn.Linear(4, 2), nn.Flatten(0, 1))
    values = connectivity.measure(model, (6, 50))
    assert values["weights"] == 50 * features + 8
    assert values["effective_share"] == 1
    assert values["dead_outputs"] == values["unused_inputs"] == 0
    assert math.isfinite(values["log10_paths"])


def test_paths_lead_through_the_values_of_attention():
    """50 inputs of each of 6 tokens, 4 features before, within and after; 6 tokens, 2 outputs."""
    model = nn.Sequential(nn.Linear(50, 4), Windows(), nn.Linear(4, 2))
    paths = 50 * 4 * 4 * 4 * 2 * 6
    values = connectivity.measure(model, (6, 50))
    assert values["log10_paths"] == pytest.approx(math.log10(paths))
    module = nn.MultiheadAttention(4, 2, batch_first=True)

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = module

        def forward(self, x):
            return self.attention(x, x, x)[0]

    values = connectivity.measure(nn.Sequential(nn.Linear(50, 4), Self(), model[2]), (6, 50))
    assert values["log10_paths"] == pytest.approx(math.log10(paths))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_transformers_are_measured_dense_and_sparse(batch_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    model = nn.Sequential(nn.Linear(6, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3))
    assert connectivity.measure(model, (5, 6))["effective_share"] == 1
    report = sparsify(model)
    assert [layer.name for layer in report.layers if not layer.kept] == [
        *("0", "1.layers.0.linear1", "1.layers.0.linear2"),
        *("1.layers.1.linear1", "1.layers.1.linear2"),
    ]
    assert connectivity.measure(model, (5, 6))["effective_share"] == 1
    assert model.eval()(torch.randn(2, 5, 6)).shape == (2, 5, 3)


def test_what_a_network_computes_from_constants_of_its_own_counts():
    """As the position biases of Swin: their input is not the image."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Linear(2, 4)
            self.register_buffer("table", torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))

        def forward(self, x):
            return x + self.mlp(self.table).sum(0)

    values = connectivity.measure(nn.Sequential(nn.Linear(3, 4), Positions()), (3,))
    assert values["weights"] == values["effective_parameters"] == 3 * 4 + 2 * 4


def test_the_model_stays_as_it_is():
    model = models.resnet18()
    sparsify(model, degree=3)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = {name: id(parameter) for name, parameter in model.named_parameters()}
    connectivity.measure(model, (3, 64, 64))
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert identities == {name: id(parameter) for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


class Casting(nn.Module):
    """Computes in float32 whatever it is given."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            conv(3, 4, [(0, 0), (1, 1)]), conv(4, 5, [(0, 0), (3, 4)]), POOL
        )

    def forward(self, x):
        return self.layers(x.float())


def test_a_model_in_float32_has_its_effective_parameters_but_no_number_of_paths():
    values = connectivity.measure(Casting(), (3, 8, 8))
    assert (values["weights"], values["effective_parameters"]) == (36, 18)
    assert (values["dead_outputs"], values["unused_inputs"]) == (2 + 4, 2 + 2)
    assert values["log10_paths"] is None


def test_blocks_that_line_up_never_meet_and_shuffled_ones_do():
    """What no measure of a single layer tells: all of these fall into components in every layer."""

    def reach(**options):
        model = models.vgg16bn(width=0.5)
        sparsify(model, partial(graphs.blocks, **options), 4)
        return connectivity.measure(model, (3, 32, 32))["reach"]

    assert reach(shuffle=False) < 0.3 < 0.7 < reach(shuffle=True) < 1
    assert connectivity.measure(models.vgg16bn(width=0.25), (3, 32, 32))["reach"] == 1
