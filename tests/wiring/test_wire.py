import copy
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from expanders import degrees, graphs, models, sparsify
from expanders.errors import SettingError
from expanders.wiring.draw import draw
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.wire import wire


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer)}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_default_job_has_the_asked_edges_everywhere():
    model = models.vgg16bn()
    report = sparsify(model, graph=graphs.rreg, degree=3, seed=0)
    layers = sparse_layers(model)
    assert len(layers) == 14
    for layer in layers.values():
        pairs = layer.num_left * layer.num_right
        assert layer.num_edges == min(3 * max(layer.num_left, layer.num_right), pairs)
    assert report.live == sum(p.numel() for p in model.parameters()) == 129_674
    assert report.edges == sum(layer.num_edges for layer in layers.values())
    kept = {layer.name: layer.kept for layer in report.layers if layer.kept}
    assert kept == {"classifier.3": "skipped"}


def test_keeps_the_values_on_the_edges():
    dense = models.vgg16bn()
    model = copy.deepcopy(dense)
    sparsify(model)
    for name, layer in sparse_layers(model).items():
        mask = layer.mask()
        assert torch.equal(layer.dense_weight()[mask], dense.get_submodule(name).weight[mask])


def test_fan_of_live_edges_restores_the_scale_of_the_outputs():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(2000, 2000), nn.Linear(2000, 2))
    x = torch.randn(4, 2000)
    scales = {}
    for fan in ("dense", "live"):
        model = copy.deepcopy(dense)
        sparsify(model, degree=20, fan=fan)
        scales[fan] = (model[0](x).std() / dense[0](x).std()).item()
    assert scales["live"] == pytest.approx(1, rel=0.2)
    assert scales["dense"] < 0.8
    with pytest.raises(SettingError, match="init.fan=thin"):
        sparsify(copy.deepcopy(dense), fan="thin")


def test_every_layer_has_its_own_graph_that_depends_on_seed_and_name_only():
    def wiring(model, seed, **options):
        sparsify(model, seed=seed, **options)
        return {name: layer.edges for name, layer in sparse_layers(model).items()}

    first = wiring(models.vgg16bn(), 0)
    same = wiring(models.vgg16bn(num_classes=3), 0, skip=["features.3", "classifier.3"])
    other = wiring(models.vgg16bn(), 1)
    assert not torch.equal(first["features.27"], first["features.30"])
    for name, edges in same.items():
        assert torch.equal(edges, first[name])
    assert not torch.equal(first["features.27"], other["features.27"])


def test_dense_graph_keeps_the_dense_twin():
    model = models.vgg16bn()
    twin = copy.deepcopy(model)
    report = sparsify(model, graphs.dense)
    assert report.live == report.dense == 14_990_922
    assert not sparse_layers(model)
    for name, value in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_leaves_out_biases_before_batch_norm_only():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)
    )
    sparsify(model, skip=())
    assert model[0].bias is None
    assert model[2].bias is not None


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "vit_b_32", "densenet121"])
def test_any_torchvision_model_trains_a_step(name):
    model = getattr(torchvision.models, name)(num_classes=5)
    dense = sum(p.numel() for p in model.parameters())
    report = sparsify(model, degree=4)
    assert report.live < dense / 2
    assert sum(p.numel() for p in model.parameters()) == report.live
    size = 224 if name == "vit_b_32" else 64
    model(torch.randn(2, 3, size, size)).sum().backward()
    trained = [layer.weight.grad is not None for layer in sparse_layers(model).values()]
    assert trained
    assert all(trained)


def test_keeps_what_it_would_break():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight
            self.grouped = nn.Conv2d(8, 8, 3, groups=2)
            self.attention = nn.MultiheadAttention(8, 2)
            self.free = nn.Linear(8, 8)

    model = Tied()
    report = sparsify(model, skip=())
    kept = {layer.name: layer.kept for layer in report.layers}
    assert kept == {
        "first": "shared weight",
        "second": "shared weight",
        "grouped": "grouped convolution",
        "attention": "MultiheadAttention cannot be wired",
        "attention.out_proj": "NonDynamicallyQuantizableLinear cannot be wired",
        "free": "",
    }
    assert model.first.weight is model.second.weight


class Reader(nn.Module):
    """Uses the weights of two layers itself, and calls the third."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
        self.block.c = nn.Linear(8, 8)
        self.called = nn.Linear(8, 8)
        self.called.weight.data.zero_()

    def forward(self, x):
        return self.called(self.within(x))

    def within(self, x):
        return x @ self.block.c.weight.T


def test_layers_whose_weights_others_read_stay_dense():
    model = nn.ModuleDict({"reader": Reader()})
    kept = {layer.name: layer.kept for layer in sparsify(model, skip=()).layers}
    assert kept["reader.block.c"] == "Reader reads its weight itself"
    assert kept["reader.called"] == kept["reader.block.a"] == ""
    swin = torchvision.models.swin_v2_t(num_classes=5)
    kept = {layer.name: layer.kept for layer in sparsify(swin, degree=1).layers}
    reason = "ShiftedWindowAttentionV2 reads its weight itself"
    assert kept["features.1.0.attn.qkv"] == kept["features.7.1.attn.proj"] == reason
    assert kept["features.1.0.mlp.0"] == kept["features.1.0.attn.cpb_mlp.0"] == ""


def test_a_layer_used_twice_stays_one_layer():
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    sparsify(model, skip=())
    assert isinstance(model["a"], SparseLinear)
    assert model["a"] is model["b"][0]


def test_a_total_budget_is_that_of_the_finished_network():
    model = models.vgg16bn()
    report = sparsify(model, degree=partial(degrees.total, parameters=500_000))
    assert 500_000 - 9 < report.live <= 500_000


def test_counts_dead_outputs_and_unused_inputs():
    def one_edge(num_left, num_right, num_edges, rng):
        return np.array([[0], [2]])

    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    report = sparsify(model, one_edge, skip=())
    assert isinstance(model[0], SparseConv2d)
    (layer,) = report.layers
    assert (layer.edges, layer.dead_outputs, layer.unused_inputs) == (1, 5, 3)


def test_refusals_leave_the_model_alone():
    model = models.vgg16bn()
    with pytest.raises(SettingError, match=r"model.skip=nonsense: no such layer; there are: feat"):
        sparsify(model, skip=["nonsense"])
    with pytest.raises(SettingError, match=r"degree.value=0"):
        sparsify(model, degree=0)
    assert not sparse_layers(model)


def test_errors_of_a_graph_name_the_layer():
    def failing(num_left, num_right, num_edges, rng):
        raise SettingError("num_edges", num_edges, "too many")

    with pytest.raises(SettingError, match=r"num_edges=192: failing, layer features.0: too many"):
        sparsify(models.vgg16bn(), failing)


def unsorted_at_the_end(num_left, num_right, num_edges, rng):
    return np.array([[1, 0], [0, 0]]) if num_left == 512 else graphs.rreg(64, 64, 64, rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": "all"}, "graph.measures=all: choose default or full"),
        ({"execution": "fast"}, "execution=fast: choose auto, dense or sparse"),
        (
            {"graph": unsorted_at_the_end},
            "unsorted_at_the_end, layer 1: a 512x64 graph has distinct edges",
        ),
    ],
)
def test_an_error_at_any_point_leaves_the_model_alone(options, message):
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Linear(512, 64))
    before = dict(model.named_modules())
    with pytest.raises(SettingError, match=message):
        sparsify(model, skip=(), **options)
    assert dict(model.named_modules()) == before


def test_a_wiring_drawn_from_one_model_fits_another():
    wiring = draw(models.vgg16bn(), degree=3, seed=5)
    first, second = models.vgg16bn(), models.vgg16bn()
    wire(first, wiring)
    sparsify(second, degree=3, seed=5)
    for name, layer in sparse_layers(second).items():
        assert torch.equal(first.get_submodule(name).edges, layer.edges)


class Zoo(nn.Module):
    """One of each layer that cannot be wired."""

    def __init__(self):
        super().__init__()
        self.signal = nn.Conv1d(4, 8, 3)
        self.volume = nn.Conv3d(4, 8, 3)
        self.up = nn.ConvTranspose2d(4, 8, 3)
        self.words = nn.Embedding(10, 8)
        self.memory = nn.LSTM(8, 8)
        self.norm = nn.utils.weight_norm(nn.Linear(8, 8), dim=0)
        self.free = nn.Linear(8, 8)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lists_every_layer_that_it_cannot_wire_with_the_reason():
    report = sparsify(Zoo(), degree=2, skip=())
    assert {layer.name: layer.kept for layer in report.layers} == {
        "signal": "Conv1d cannot be wired",
        "volume": "Conv3d cannot be wired",
        "up": "ConvTranspose2d cannot be wired",
        "words": "Embedding cannot be wired",
        "memory": "LSTM cannot be wired",
        "norm": "weight computed from other parameters",
        "free": "",
    }
    shapes = {layer.name: layer.shape for layer in report.layers}
    assert (shapes["volume"], shapes["memory"]) == ((8, 4, 3, 3, 3), (32, 8))
    assert report.edges == 2 * 8
    with pytest.raises(SettingError, match="layer 0=LazyLinear: call the model once"):
        sparsify(nn.Sequential(nn.LazyLinear(3)))


def test_lists_layers_that_were_wired_before():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(8, 8), nn.Linear(8, 8))
    sparsify(model, degree=2, skip=["1"])
    report = sparsify(model, degree=3, skip=())
    assert [layer.kept for layer in report.layers] == ["wired before", "", "wired before"]
    assert [layer.edges for layer in report.layers] == [2 * 8, 3 * 8, 2 * 8]
    assert report.layers[0].shape == (8, 4, 3, 3)
    assert report.dense == (8 * 4 * 9 + 8) + 2 * (8 * 8 + 8)


def test_a_degree_may_be_a_number_of_numpy():
    reports = [
        sparsify(nn.Sequential(nn.Linear(8, 8)), degree=d, skip=()) for d in (3, np.int64(3))
    ]
    assert reports[0] == reports[1]


def test_a_wiring_of_another_model_is_refused():
    wiring = draw(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), degree=2, skip=())
    model = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(SettingError, match="layer=1: the wiring has it, and the model has not"):
        wire(model, wiring)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("padded", [False, True])
def test_a_transformer_computes_the_same_in_evaluation(padded):
    """PyTorch has a faster way for evaluation that reads the weights of dense layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    report = sparsify(model, degree=3, skip=())
    assert sum(not layer.kept for layer in report.layers) == 4
    x = torch.randn(3, 5, 16)
    mask = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [4], [2]]) if padded else None
    expected = model.train()(x, src_key_padding_mask=mask)
    model.eval().requires_grad_(False)
    with torch.no_grad():
        found = model(x, src_key_padding_mask=mask)
    kept = slice(None) if mask is None else ~mask
    assert torch.allclose(found[kept], expected[kept], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graph": "rreg"}, "graph='rreg': give a graph model itself"),
        ({"degree": "3"}, "degree='3': give a number or a degree policy"),
        ({"skip": "classifier.3"}, r"model.skip=classifier.3: must be a list .* \[classifier.3\]"),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(SettingError, match=message):
        sparsify(models.vgg16bn(), **options)


def test_a_trained_network_keeps_its_outputs_without_the_biases_that_norms_replace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    nn.init.constant_(model[0].bias, 2.0)
    for _ in range(20):
        model(torch.rand(8, 3, 6, 6))
    x = torch.rand(2, 3, 6, 6)
    before = model.eval()(x)
    sparsify(model, degree=10**9, skip=())
    assert model[0].bias is None
    torch.testing.assert_close(model(x), before)


def test_a_norm_in_two_places_leaves_biases_where_they_are():
    torch.manual_seed(0)
    norm, relu = nn.BatchNorm2d(8), nn.ReLU()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 1), norm, relu),
        nn.Sequential(nn.Conv2d(8, 8, 1), relu, nn.Conv2d(8, 8, 1), relu, norm),
    )
    for _ in range(20):
        model(torch.rand(8, 3, 6, 6))
    x = torch.rand(2, 3, 6, 6)
    before = model.eval()(x)
    sparsify(model, degree=10**9, skip=())
    torch.testing.assert_close(model(x), before)


def test_a_model_that_is_wired_is_not_wired_again():
    model = models.vgg16bn(10, width=0.25)
    report = sparsify(model, degree=3)
    with pytest.raises(
        SettingError, match="model=VGG: all its layers are wired .* build the model"
    ):
        sparsify(model, degree=15)
    assert count(model) == report.live
    assert sparsify(model, graphs.dense).live == report.live, "it changes nothing"


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_is_computed_from_others_counts_with_all_of_them(norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 8, 3))
    report = sparsify(model, skip=())
    assert report.layers[1].kept
    assert report.layers[1].shape == (8, 8, 3, 3)
    assert report.live == sum(layer.live for layer in report.layers) == count(model)


def test_what_a_user_may_not_expect_is_said(caplog):
    def few(num_left, num_right, num_edges, rng):
        return graphs.random(num_left, num_right, num_edges // 2, rng)

    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].register_forward_hook(lambda *_: None)
    sparsify(copy.deepcopy(model), few, degree=3, skip=())
    assert "edges of few have 216 weights, where the degree asks for 432" in caplog.text
    assert "layer 1: the hooks of the dense layer are left out" in caplog.text
    sparsify(copy.deepcopy(model), degree=1000, skip=())
    assert "every wired layer is complete: this is the dense network (graph=dense)" in caplog.text


@pytest.mark.parametrize("seed", [1.5, -1, None, "a", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(SettingError, match="seed=.*: give a whole number, 0 or more"):
        sparsify(models.resnet20(), seed=seed)
