import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from expanders import graphs, models, sparsify
from expanders.wiring.cost import count_flops


def by_hand():
    """Every geometry: stride, padding, dilation, a grouped convolution, a bias, tokens."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, (1, 3), dilation=2, bias=False),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.Flatten(2),
        nn.Linear(32, 12),
        nn.Flatten(),
        nn.Linear(192, 10),
    )


def test_edges_and_output_positions_by_hand():
    model = by_hand()
    sparsify(model, degree=3, skip=["0", "7"])
    image = (3, 20, 20)
    sparse = model[2]
    flops = count_flops(model, image)  # the outputs are 10 x 10, 10 x 6 and 8 x 4
    first, second = 2 * 3 * 8 * 9 * 100, 2 * 3 * 60
    grouped, head, token = 2 * 16 * 4 * 9 * 32, 2 * 192 * 10, 2 * 16
    same = first + grouped + head
    assert flops.live == same + second * sparse.num_edges + token * model[5].num_edges
    assert flops.dense == same + second * 8 * 16 + token * 32 * 12


def test_of_single_weights_the_live_ones_count():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False))
    report = sparsify(model, degree=2, skip=(), granularity="weight")
    assert count_flops(model, (8, 10, 10)).live == 2 * 144 * 100 == 2 * report.live * 100


@pytest.mark.parametrize(
    ("build", "size"), [(models.vgg16bn, 32), (models.resnet32, 32), (models.resnet18, 64)]
)
def test_the_dense_twin_has_what_pytorch_counts(build, size):
    dense = build(10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        dense.eval()(torch.zeros(1, 3, size, size))
    expected = counter.get_total_flops()
    assert count_flops(dense, (3, size, size)) == (expected, expected)
    sparse, complete = copy.deepcopy(dense), copy.deepcopy(dense)
    sparsify(sparse, degree=3)
    flops = count_flops(sparse, (3, size, size))
    assert flops.dense == expected
    assert 0 < flops.live < expected
    sparsify(complete, graphs.rreg, degree=10**9)
    assert count_flops(complete, (3, size, size)) == (expected, expected)


def test_a_linear_layer_over_tokens_and_attention_are_counted():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    with FlopCounterMode(display=False) as counter:
        layer.eval()(torch.zeros(1, 7, 16))
    expected = counter.get_total_flops()
    model = nn.Sequential(layer)
    assert count_flops(model, (7, 16)).dense == expected
    missing = 2 * 16 * 32 * 7
    sparsify(model, degree=3, skip=["0.linear2"])
    edges = model[0].linear1.num_edges
    assert count_flops(model, (7, 16)) == (expected - missing + 2 * edges * 7, expected)


def test_the_model_stays_as_it_is():
    model = models.resnet32(10)
    sparsify(model)
    model.train()
    before = copy.deepcopy(model.state_dict())
    count_flops(model, (3, 32, 32))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks for module in model.modules())
