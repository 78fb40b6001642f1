import copy
import gc
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expanders import models
from expanders.training.fusion import fuse_norms, replace_max_pools
from expanders.wiring import native
from expanders.wiring.norm import RELU, RELU6, batch_norm
from expanders.wiring.wire import sparsify

pytestmark = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")


BOUNDS = {RELU: "relu", RELU6: "relu6", (-1.0, 2.0): "hardtanh"}


def captured(model, joined):
    """`model` with its norms joined; what they were joined with goes into the list `joined`."""

    def backend(module, inputs):
        fuse_norms(module.graph)
        module.recompile()
        for node in module.graph.nodes:
            if node.target is batch_norm:
                followers = dict(node.kwargs)
                if "bounds" in followers:
                    followers[BOUNDS[followers["bounds"]]] = True
                names = ("residual", *BOUNDS.values(), "pool")
                joined.append([name for name in names if followers.get(name)])
        return module

    torch.compiler.reset()
    return torch.compile(model, backend=backend, dynamic=False)


def trained(model, run, x):
    """Output, gradients and buffers after two steps in which the network runs as `run`."""
    for _ in range(2):
        model.zero_grad()
        y = run(x)
        (y**2).mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
    return [y, *(p.grad for p in model.parameters()), *model.buffers()]


def check(model, shape, expected):
    """Joined as expected, and with the results of PyTorch."""
    torch.manual_seed(0)
    model = model.double().train()
    x = torch.randn(shape, dtype=torch.float64)
    plain, joined = copy.deepcopy(model), []
    run = captured(model, joined)
    for got, want in zip(trained(model, run, x), trained(plain, plain, x), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    assert joined == expected
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.filterwarnings("ignore")
class TestJoins:
    def test_a_sequence(self):
        model = models.vgg16bn()
        model.classifier[2].p = 0.0
        pools = {1, 3, 6, 9, 12}
        expected = [["relu", "pool"] if i in pools else ["relu"] for i in range(13)]
        check(model, (2, 3, 32, 32), expected)

    def test_residual_blocks(self):
        """Their shortcuts are added before the ReLU; that of a new width has a norm of its own."""
        model = models.resnet18(stem="cifar")
        block, wider = [["relu"], ["residual", "relu"]], [["relu"], [], ["residual", "relu"]]
        expected = [["relu"], *block * 2, *(wider + block) * 3]
        joined = sorted(expected)
        torch.manual_seed(0)
        found = []
        captured(model.train(), found)(torch.randn(2, 3, 16, 16))
        assert sorted(found) == joined
        check(model, (2, 3, 16, 16), found)

    def test_functions(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

            def forward(self, x):
                return torch.max_pool2d(torch.relu(self.norm(self.conv(x))), (2, 2))

        check(Net(), (2, 3, 8, 8), [["relu", "pool"]])

    @pytest.mark.parametrize(
        "options",
        [{"affine": False}, {"track_running_stats": False}, {"momentum": 0.5, "eps": 0.1}],
    )
    def test_options_of_a_norm(self, options):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU())
        check(model, (2, 3, 6, 6), [["relu"]])


class Own(nn.Module):
    """A norm, and what a test does with it."""

    def __init__(self, then):
        super().__init__()
        self.norm, self.then = nn.BatchNorm2d(4), then

    def forward(self, x):
        return self.then(x * 2, self.norm)


def both(x, norm):
    y = norm(x)
    return F.relu(y) + y


def changed(x, norm):
    other = x * 3
    y = norm(x) + other
    other += 1
    return F.relu(y) * other


def added_to(x, norm):
    """In place: what the norm is added to is used again."""
    other = x * 3
    y = F.relu(operator.iadd(other, norm(x)))
    return y + other


def added_and_kept(x, norm):
    """ReLU6 keeps its input for the gradient: its output may be changed."""
    y = F.relu6(x + norm(x))
    y += 1
    return y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (both, [[]]),
        (changed, [[]]),
        (added_to, [[]]),
        (lambda x, norm: F.relu(norm(x) + x.mean()), [[]]),
        (lambda x, norm: F.relu(norm(x) + norm(x)), [[], ["residual", "relu"]]),
        (lambda x, norm: nn.ReLU6()(norm(x)), [["relu6"]]),
        (lambda x, norm: F.relu6(norm(x)), [["relu6"]]),
        (lambda x, norm: nn.ReLU6(inplace=True)(norm(x)), [["relu6"]]),
        (lambda x, norm: F.hardtanh_(norm(x), 0.0, 6.0), [["relu6"]]),
        (added_and_kept, [[]]),
        (lambda x, norm: F.hardtanh(norm(x), max_val=2.0), [["hardtanh"]]),
        (lambda x, norm: F.max_pool2d(F.relu6(norm(x)), 2), [["relu6"]]),
        (lambda x, norm: F.max_pool2d(norm(x), 2), [[]]),
        (lambda x, norm: F.max_pool2d(F.relu(norm(x)), 3), [["relu"]]),
        (lambda x, norm: F.max_pool2d(F.relu(norm(x)), 2, 1), [["relu"]]),
        (lambda x, norm: F.max_pool2d(F.relu(norm(x)), 2, padding=1), [["relu"]]),
        (lambda x, norm: F.max_pool2d(F.relu(norm(x[..., :5])), 2), []),
        (lambda x, norm: F.relu(norm(x.mT)), []),
    ],
)
def test_keeps_apart_what_others_need(then, expected):
    check(Own(then), (2, 4, 6, 6), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("pool", "count"),
    [
        (nn.MaxPool2d(3, 2, 1), 1),
        (lambda x: F.max_pool2d(input=x, kernel_size=2), 1),
        (lambda x: torch.max_pool2d(x, (3, 3), [1]), 1),
        (nn.MaxPool2d((2, 3)), 0),
        (nn.MaxPool2d(2, dilation=2), 0),
        (nn.MaxPool2d(5, 2, ceil_mode=True), 0),
        (lambda x: F.max_pool2d(x.bfloat16(), 2).to(x.dtype), 0),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], 0),
    ],
)
def test_max_pools_of_their_own_are_replaced(pool, count):
    counts = []

    def backend(module, inputs):
        counts.append(replace_max_pools(module.graph))
        module.recompile()
        return module

    torch.compiler.reset()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (torch.compile(pool, backend=backend, dynamic=False), pool):
        y = run(x * 2)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert counts == [count]


@pytest.mark.filterwarnings("ignore")
def test_leaves_evaluation_cumulative_averages_and_bf16_alone():
    joined = []
    captured(nn.BatchNorm2d(4).eval(), joined)(torch.randn(2, 4, 4, 4))
    captured(nn.BatchNorm2d(4).bfloat16(), joined)(torch.randn(2, 4, 4, 4).bfloat16())
    assert joined == []
    check(nn.Sequential(nn.BatchNorm2d(4, momentum=None), nn.ReLU()), (2, 4, 4, 4), joined)


@pytest.mark.filterwarnings("ignore")
def test_frees_the_activations_of_a_step():
    """Without help of Python's garbage collector, which comes after several steps."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    sparsify(model, degree=2)
    for layer in (model[0], model[3]):
        layer.execution = "sparse"
    run = captured(model.train(), [])
    counts = []
    for _ in range(3):
        run(torch.randn(2, 3, 8, 8)).sum().backward()
        if not counts:
            gc.collect()
            gc.disable()
        counts.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))
    gc.enable()
    assert counts[2] == counts[1]
