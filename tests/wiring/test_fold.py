import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import expanders
from expanders.export import plain
from expanders.wiring import native
from expanders.wiring.fold import fold, without_norms
from expanders.wiring.layers import SparseConv2d, SparseLayer
from expanders.wiring.pool import max_pool2d


class Norms(nn.Module):
    """Norms that can be folded (a) and such that cannot (b: two readers, c: used twice)."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x):
        a = self.norms[0](self.convs[0](x))
        b = self.convs[1](a)
        b = b + self.norms[1](b)
        return self.norms[2](self.convs[2](self.norms[2](self.convs[2](b))))


@torch.no_grad()
def test_only_norms_right_after_a_convolution_of_their_own_are_folded():
    model = Norms()
    x = torch.randn(8, 3, 5, 5)
    for norm in model.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model(x)
    before = model.eval()(x)
    folded = without_norms(model)
    assert_close(folded(x), before)
    assert {name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)} == {
        "norms.1",
        "norms.2",
    }
    assert torch.equal(model(x), before)


def test_what_cannot_be_traced_keeps_its_norms(caplog):
    class Branching(Norms):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    folded = without_norms(Branching())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 3
    assert "batch norms are not folded" in caplog.text


# ----------------------------------------------------------------------------- whole networks


def trained_a_little(name: str) -> nn.Module:
    """A sparse network whose norms have statistics and scales of their own."""
    torch.manual_seed(0)
    model: nn.Module = getattr(expanders.models, name)()
    expanders.sparsify(model, degree=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["vgg16bn", "resnet18"])
@torch.no_grad()
def test_a_folded_network_computes_the_same_without_norms(name, execution):
    model = trained_a_little(name)
    state = copy.deepcopy(model.state_dict())
    folded = fold(model)
    for layer in folded.modules():
        if isinstance(layer, SparseLayer):
            layer.execution = execution
    x = torch.randn(4, 3, 32, 32)
    assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(m, SparseConv2d) and m.relu for m in folded.modules())
    assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert_close(plain.dense(folded)(x), folded(x), rtol=1e-4, atol=1e-4)


class Relus(nn.Module):
    """Five ways to write a ReLU behind a convolution; behind the last one, another reader."""

    def __init__(self):
        super().__init__()
        dense = nn.Conv2d(3, 3, 1)
        edges = torch.tensor([[0, 2, 1], [0, 1, 2]])
        self.convs = nn.ModuleList(SparseConv2d.from_dense(dense, edges) for _ in range(5))
        self.relu = nn.ReLU()

    def forward(self, x):
        for conv, relu in zip(self.convs, (self.relu, F.relu, torch.relu, F.relu6), strict=False):
            x = relu(conv(x)) - 0.1
        y = self.convs[4](x)
        return self.relu(y) + y


@torch.no_grad()
def test_relus_that_only_they_read_are_taken_into_convolutions():
    model, x = Relus(), torch.randn(4, 3, 5, 5)
    folded = fold(model)
    assert [conv.relu for conv in folded.convs.children()] == [True, True, True, False, False]
    assert not any(conv.relu for conv in model.convs)
    assert_close(folded(x), model(x))


class Sharing(nn.Module):
    """Convolutions whose weights are not theirs alone, each followed by a norm."""

    def __init__(self):
        super().__init__()
        self.tied = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(2))
        self.tied[1].weight = self.tied[0].weight
        self.read = nn.Conv2d(3, 3, 1)
        parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
        self.computed = nn.ModuleList([parametrized, nn.utils.spectral_norm(nn.Conv2d(3, 3, 1))])
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x):
        for conv, norm in zip((*self.tied, self.read, *self.computed), self.norms, strict=True):
            x = norm(conv(x))
        x = x + self.read.weight.sum()
        tokens = x.flatten(2).mT
        return self.attention(query=tokens, key=tokens, value=tokens)[0]


@torch.no_grad()
def test_a_convolution_whose_weight_is_not_its_own_keeps_its_norm():
    model, x = Sharing(), torch.randn(4, 3, 5, 5)
    for norm in model.norms:
        norm.running_var.uniform_(0.1, 4)
        norm.running_mean.normal_()
    folded = fold(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 5
    assert_close(folded(x), model.eval()(x))


class Pools(nn.Module):
    """Three ways to write a max-pool, and one that the operator does not have."""

    def __init__(self):
        super().__init__()
        self.pool, self.wide = nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((1, 2))

    def forward(self, x):
        return self.wide(torch.max_pool2d(F.max_pool2d(self.pool(x), 2), 2, stride=1))


def test_max_pools_are_those_of_the_operator():
    model, x = Pools(), torch.randn(2, 3, 21, 21)
    folded = fold(model)
    targets = [node.target for node in folded.graph.nodes if node.op.startswith("call")]
    assert targets == [max_pool2d] * 4
    assert torch.equal(folded(x), model(x))
    again = pickle.loads(pickle.dumps(copy.deepcopy(folded)))
    assert torch.equal(again(x), model(x))


@pytest.mark.skipif(not native.is_available(), reason="no C++ compiler for the sparse operator")
def test_a_folded_network_can_be_trained_on():
    """The ReLU inside of a convolution has the derivatives of the one outside."""
    gradients = []
    for execution in ("sparse", "dense"):
        torch.manual_seed(0)
        layer = fold(Relus()).convs.get_submodule("0").double()
        layer.execution = execution
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), (x, *layer.parameters()))
        gradients.append([slope, *second])
    assert_close(*gradients)
