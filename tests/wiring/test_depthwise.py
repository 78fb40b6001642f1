import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expanders.training.fusion import replace_depthwise
from expanders.wiring import depthwise, native

pytestmark = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")

SHAPE = (2, 6, 20, 20)


def differentiated(compute, x, weight, bias, options):
    """The output and all gradients."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = compute(*inputs, **options)
    torch.manual_seed(1)
    return [y, *torch.autograd.grad(y, inputs, torch.randn_like(y))]


@pytest.mark.parametrize(
    ("kernel", "multiplier", "options"),
    [
        ((3, 3), 1, {"padding": 1}),
        ((3, 3), 2, {"padding": "same"}),
        ((5, 5), 1, {"stride": 2, "padding": (2, 1)}),
        ((5, 5), 3, {"stride": (1, 2), "dilation": 2, "padding": "valid"}),
        ((7, 7), 1, {"padding": [3]}),
    ],
    ids=str,
)
def test_equals_pytorch(kernel, multiplier, options):
    torch.manual_seed(0)
    x = torch.randn(SHAPE, dtype=torch.float64)
    weight = torch.randn(6 * multiplier, 1, *kernel, dtype=torch.float64)
    bias = torch.randn(6 * multiplier, dtype=torch.float64)
    options = options | {"groups": 6}
    assert depthwise.is_faster_over_edges(x, weight, options.get("stride", 1), 6)
    ours = differentiated(depthwise.conv2d, x, weight, bias, options)
    for got, expected in zip(ours, differentiated(F.conv2d, x, weight, bias, options), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv2d(6, 6, 5), torch.randn(SHAPE)),
        (nn.Conv2d(6, 6, 5, groups=3), torch.randn(SHAPE)),
        (nn.Conv2d(6, 6, 3, groups=6), torch.randn(2, 6, 14, 14)),
        (nn.Conv2d(6, 6, 3, stride=2, groups=6), torch.randn(SHAPE)),
        (nn.Conv2d(6, 6, 5, groups=6), torch.randn(SHAPE).to(memory_format=torch.channels_last)),
        (nn.Conv2d(6, 6, 5, groups=6).bfloat16(), torch.randn(SHAPE).bfloat16()),
    ],
    ids=["dense", "groups of two", "small", "stride 2", "channels last", "bf16"],
)
def test_others_are_left_to_pytorch(conv, x):
    assert not depthwise.is_faster_over_edges(x, conv.weight, conv.stride, conv.groups)
    options = (conv.stride, conv.padding, conv.dilation, conv.groups)
    assert torch.equal(depthwise.conv2d(x, conv.weight, conv.bias, *options), conv(x))


@pytest.mark.filterwarnings("ignore")
def test_under_autocast_and_in_forward_mode_pytorch_computes():
    x, direction = torch.randn(2, *SHAPE)
    weight = torch.randn(6, 1, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise.conv2d(x, weight, groups=6).dtype == torch.bfloat16
    tangents = [
        torch.func.jvp(lambda x, f=compute: f(x, weight, groups=6), (x,), (direction,))[1]
        for compute in (depthwise.conv2d, F.conv2d)
    ]
    torch.testing.assert_close(*tangents)


def test_has_second_derivatives():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    compute = lambda x, w: depthwise.conv2d(x, w, padding=1, groups=2)[..., :2, :2]  # noqa: E731
    assert torch.autograd.gradgradcheck(compute, (x, weight))


@pytest.mark.filterwarnings("ignore")
def test_is_found_in_a_captured_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 6, 3, groups=6, padding_mode="reflect", padding=1),
        nn.Conv2d(6, 6, 3, stride=2, groups=6),
    )
    counts = []

    def backend(module, inputs):
        counts.append(replace_depthwise(module.graph))
        module.recompile()
        return module

    x = torch.randn(2, 3, 20, 20)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x))
    assert counts == [2]
