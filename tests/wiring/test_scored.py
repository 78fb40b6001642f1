"""Wirings from scores: what they keep, what they leave alone, and what they cost."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from expanders import degrees, graphs, models, sparsify
from expanders.errors import SettingError
from expanders.wiring import scored, scores
from expanders.wiring.draw import draw
from expanders.wiring.initialization import initialize
from expanders.wiring.layers import SparseLayer

METHODS = {
    "magnitude": scored.magnitude(),
    "snip": scored.snip(images=20),
}


def images(count=20, size=32, num_classes=10):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, size, size, generator=generator)
    return inputs, torch.arange(count) % num_classes


def small():
    """Kernels of three sizes, batch norm, a grouped layer; 6 classes."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 8, 5), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    )
    initialize(model, 3)
    return model


def weights_of(model):
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, SparseLayer))


@pytest.mark.parametrize("method", METHODS)
def test_drawing_leaves_everything_as_it_was(method):
    model = models.resnet32().train()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    first = draw(model, METHODS[method], 3, images=images())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["conv1.weight"]
    assert all(module.training for module in model.modules())
    torch.rand(3)
    again = draw(model, METHODS[method], 3, images=images())
    for name, edges in first.edges.items():
        assert (edges == again.edges[name]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [models.vgg16bn, models.resnet32])
def test_a_scope_says_who_shares_the_budget(method, build):
    model = build()
    initialize(model, 0)
    by_layer = copy.deepcopy(model)
    policy = partial(degrees.constant, value=3)
    whole = sparsify(model, METHODS[method], policy, images=images())
    layered = replace(METHODS[method], scope="layer")
    single = sparsify(by_layer, layered, policy, images=images())
    equal = sparsify(build(), degree=3)
    assert [layer.edges for layer in single.layers] == [layer.edges for layer in equal.layers]
    assert [layer.edges for layer in whole.layers] != [layer.edges for layer in equal.layers]
    budget = weights_of(by_layer)
    assert budget - 9 < weights_of(model) <= budget


def test_magnitude_keeps_the_largest_kernels_of_a_layer():
    model = small()
    norms = model[8].weight.detach().flatten(2).norm(dim=2)
    sparsify(model, scored.magnitude(scope="layer"), 2)
    mask = model[8].mask()
    assert mask.sum() == 2 * 12
    assert norms[mask].min() > norms[~mask].max()


def test_snip_is_the_derivative_of_the_loss_by_the_mask():
    model = small().double()
    x, labels = images(12, 16, 6)
    x = x.double()
    shapes = {"0": (8, 3, 1, 1), "3": (12, 8, 1, 1), "8": (8, 12, 1, 1)}
    masks = {n: torch.ones(s, dtype=torch.float64, requires_grad=True) for n, s in shapes.items()}
    halves = [(x[:6], labels[:6], 0.5), (x[6:], labels[6:], 0.5)]
    found = scores.snip(model, masks, halves)

    @torch.no_grad()
    def loss(name, edge, factor):
        changed = copy.deepcopy(model)
        changed.eval()
        changed[1].train(), changed[4].train()
        changed.get_submodule(name).weight[edge] *= factor
        parts = [nn.functional.cross_entropy(changed(a), b) for a, b, _ in halves]
        return sum(parts) / 2

    for name, values in found.items():
        for edge in ((0, 0), (3, 2), (7, 1)):
            slope = (loss(name, edge, 1 + 1e-5) - loss(name, edge, 1 - 1e-5)) / 2e-5
            assert values[edge].item() == pytest.approx(abs(slope.item()), rel=1e-5, abs=1e-9)


def test_what_a_method_depends_on():
    assert draw(small(), degree=2).streams == ("graph",)
    assert draw(small(), METHODS["magnitude"], 2).streams == ("init",)
    assert draw(small(), METHODS["snip"], 2, images=images(20, 16, 6)).streams == ("init", "data")


def test_a_method_that_names_no_seed_of_a_run_is_refused():
    """It would be taken for independent of all seeds, and its runs for copies of one."""

    class Misspelt(type(METHODS["magnitude"])):
        streams = ("grpah",)

    with pytest.raises(SettingError, match=r"streams=grpah: choose graph, init or data"):
        draw(small(), Misspelt(scores.magnitude), degree=2)


def test_more_images_than_asked_for_are_not_looked_at():
    model = small()
    x, labels = images(40, 16, 6)
    first = draw(model, METHODS["snip"], 2, images=(x[:20], labels[:20]))
    x[20:] = torch.nan
    second = draw(model, METHODS["snip"], 2, images=(x, labels))
    assert all((first.edges[name] == second.edges[name]).all() for name in first.edges)


def test_what_cannot_work_is_one_line():
    with pytest.raises(SettingError, match="graph.images=20: snip looks at as many .* given 0"):
        sparsify(small(), METHODS["snip"], 2)
    with pytest.raises(SettingError, match="graph.images=20: snip looks at as many .* given 19"):
        sparsify(small(), METHODS["snip"], 2, images=images(19, 16, 6))
    with pytest.raises(SettingError, match="graph.scope=world: choose network or layer"):
        scored.snip(scope="world")
    with pytest.raises(SettingError, match="graph.images=1: must be 2 or more"):
        scored.snip(images=1)
    with pytest.raises(SettingError, match="graph.images=0: snip scores by training images"):
        scored.snip(images=0)
    x, labels = images(20, 16, 6)
    with pytest.raises(SettingError, match="graph=snip: the scores of layer 0 are infinite or not"):
        sparsify(small(), METHODS["snip"], 2, images=(x * torch.inf, labels))
    model = small()
    nn.init.zeros_(model[12].weight)
    with pytest.raises(SettingError, match="graph=snip: all scores are zero"):
        sparsify(model, METHODS["snip"], 2, images=(x, labels))
    assert not any(isinstance(module, SparseLayer) for module in model.modules())


def test_rounds_that_cut_a_network_apart_are_one_line():
    """Two rounds cut so much at once that no path is left for the second one to score."""
    channels = (3, 16, 16, 16, 16, 16, 32, 32)
    convs = [nn.Conv2d(left, right, 3, padding=1) for left, right in pairwise(channels)]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    initialize(model, 0)
    cut = "graph.rounds=2: after round 1 no path .* choose more rounds, or graph.floor=vertex"
    with pytest.raises(SettingError, match=cut):
        draw(model, scored.synflow(rounds=2), 2, images=images(1, 8))
    draw(model, scored.synflow(rounds=2, floor="vertex"), 2, images=images(1, 8))
    draw(model, scored.synflow(rounds=20), 2, images=images(1, 8))


def test_a_network_with_grouped_layers_keeps_its_budget():
    model = torchvision.models.mobilenet_v2(num_classes=10)
    report = sparsify(model, METHODS["magnitude"], 3)
    grouped = [layer for layer in report.layers if layer.kept == "grouped convolution"]
    assert len(grouped) == 17
    equal = torchvision.models.mobilenet_v2(num_classes=10)
    sparsify(equal, degree=3)
    assert weights_of(model) == weights_of(equal)  # all of them 1x1


ALL = {
    "magnitude": scored.magnitude(),
    "snip": scored.snip(images=10),
    "grasp": scored.grasp(images=10),
    "synflow": scored.synflow(rounds=10),
}
NETWORKS = {
    "vgg16bn": models.vgg16bn,
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
}


def kept_budget(model, method, granularity="kernel"):
    """Exactly with single weights; by less than a kernel, and never above, with kernels."""
    budget = weights_of(wired(model, graphs.random, 3))
    found = wired(model, method, 3, images=images(10), granularity=granularity)
    assert all(layer.num_edges for layer in found.modules() if isinstance(layer, SparseLayer))
    return 0 <= budget - weights_of(found) < (9 if granularity == "kernel" else 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_keeps_the_budget(network):
    torch.manual_seed(0)
    assert kept_budget(NETWORKS[network](num_classes=10), ALL["magnitude"])


@pytest.mark.parametrize("granularity", ["kernel", "weight"])
@pytest.mark.parametrize("method", ALL)
def test_every_method_keeps_the_budget(method, granularity):
    torch.manual_seed(0)
    assert kept_budget(models.resnet32(), ALL[method], granularity)


NARROW = {  # the same layers with fewer channels
    "vgg16bn": partial(models.vgg16bn, width=0.25),
    "resnet18": partial(models.resnet18, width=0.25),
    "resnet50": partial(models.resnet50, width=0.25),
    "mobilenet_v2": partial(torchvision.models.mobilenet_v2, width_mult=0.25),
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("network", NARROW)
def test_every_method_keeps_the_budget_of_every_network(network, method):
    """In both scopes, of kernels and of single weights."""
    torch.manual_seed(0)
    model = NARROW[network](num_classes=10)
    wiring = draw(model, graphs.random, 3)
    sizes = {name: model.get_submodule(name).weight[0, 0].numel() for name in wiring.edges}
    budgets = {name: edges.shape[1] * sizes[name] for name, edges in wiring.edges.items()}
    for granularity, scope in product(("kernel", "weight"), ("network", "layer")):
        chosen = replace(ALL[method], scope=scope)
        found = draw(model, chosen, 3, images=images(10), granularity=granularity)
        carried = sizes if granularity == "kernel" else dict.fromkeys(sizes, 1)
        kept = {name: edges.shape[1] * carried[name] for name, edges in found.edges.items()}
        assert kept.keys() == budgets.keys()
        assert min(kept.values()) > 0
        if scope == "layer":
            assert kept == budgets
        else:
            assert kept != budgets
            short = sum(budgets.values()) - sum(kept.values())
            assert 0 <= short < (9 if granularity == "kernel" else 1)


def wired(model, *arguments, **options):
    model = copy.deepcopy(model)
    sparsify(model, *arguments, **options)
    return model


def test_rounds_only_remove_and_end_at_the_budget():
    """Iterative SNIP in one round is SNIP; what rounds remove differs."""
    model, shown = small(), images(20, 16, 6)
    one, ten = (draw(model, scored.snip(images=20, rounds=n), 2, images=shown) for n in (1, 10))
    single = draw(model, METHODS["snip"], 2, images=shown)
    assert all((one.edges[name] == single.edges[name]).all() for name in one.edges)
    assert any(one.edges[name].shape != ten.edges[name].shape for name in one.edges) or any(
        (one.edges[name] != ten.edges[name]).any() for name in one.edges
    )


def test_what_was_removed_does_not_return_whatever_its_score():
    def revived(model, masks, batches):
        """Magnitude, and much more for what is not there, as SNIP can give."""
        found = scores.magnitude(model, masks, batches)
        return {name: values + 1e6 * (1 - masks[name].detach()) for name, values in found.items()}

    model = small()
    once, thrice = (
        draw(model, scored.Scored(revived, rounds=n), 2, granularity="weight") for n in (1, 3)
    )
    assert all(np.array_equal(once.edges[name], thrice.edges[name]) for name in once.edges)


def test_all_images_are_looked_at_in_batches_that_count_by_their_size():
    inputs, labels = images(scored.BATCH_SIZE + 5, 4)
    batches = scored._batches((inputs, labels))
    assert torch.equal(torch.cat([x for x, _, _ in batches]), inputs)
    assert torch.equal(torch.cat([y for _, y, _ in batches]), labels)
    assert [len(y) for _, y, _ in batches] == [53, 52]
    assert [share for _, _, share in batches] == [53 / 105, 52 / 105]


def test_one_shot_snip_cuts_a_deep_network_and_rounds_or_a_floor_do_not():
    torch.manual_seed(0)
    model = models.vgg16bn()
    initialize(model, 0)
    shown = images(20)
    wirings = {
        "once": draw(model, scored.snip(images=20), 3, images=shown),
        "floor": draw(model, scored.snip(images=20, floor="vertex"), 3, images=shown),
    }
    assert wirings["once"].facts["floor_layers"] > 0
    lone = [edges.shape[1] for edges in wirings["once"].edges.values()]
    assert lone.count(1) >= wirings["once"].facts["floor_layers"]  # some keep one by themselves
    for name, edges in wirings["floor"].edges.items():
        layer = model.get_submodule(name)
        assert len(np.unique(edges[1])) == layer.weight.shape[0]
        assert len(np.unique(edges[0])) == layer.weight.shape[1]
    assert wirings["floor"].facts["floor_edges"] > wirings["once"].facts["floor_edges"]


def test_random_places_keep_the_number_of_edges_of_every_layer():
    model = models.resnet32()
    initialize(model, 0)
    chosen = draw(model, scored.magnitude(), 3)
    first, second, again = (
        draw(model, scored.magnitude(placement="random"), 3, seed) for seed in (0, 1, 0)
    )
    assert first.streams == ("init", "graph")
    for name, edges in chosen.edges.items():
        assert first.edges[name].shape == second.edges[name].shape == edges.shape
        assert (first.edges[name] == again.edges[name]).all()
    assert any((first.edges[name] != second.edges[name]).any() for name in first.edges)
    overlap = sum(
        len({*map(tuple, a.T)} & {*map(tuple, chosen.edges[n].T)}) for n, a in first.edges.items()
    )
    assert overlap < 0.5 * sum(edges.shape[1] for edges in chosen.edges.values())


def test_a_floor_beyond_the_budget_is_refused():
    policy = partial(degrees.density, density=0.002)
    with pytest.raises(SettingError, match="graph.floor=vertex: an edge for every channel of the"):
        sparsify(models.vgg16bn(), scored.magnitude(floor="vertex"), policy)
    with pytest.raises(SettingError, match="an edge for every channel of layer features.0"):
        sparsify(models.vgg16bn(), scored.magnitude(floor="vertex", scope="layer"), policy)


class Written(nn.Module):
    """Hardswish as many write it."""

    def forward(self, x):
        return x * nn.functional.relu6(x + 3) / 6


def test_synflow_does_not_take_an_activation_written_out_for_a_square():
    def edges(activation):
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3)]
        for _ in range(4):
            layers += [nn.BatchNorm2d(16), activation(), nn.Conv2d(16, 16, 3, padding=1)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        wiring = draw(model, scored.synflow(rounds=10), 3, images=images(0, 8))
        return [edges.shape[1] for edges in wiring.edges.values()]

    assert edges(Written) == pytest.approx(edges(nn.Hardswish), rel=0.2)
