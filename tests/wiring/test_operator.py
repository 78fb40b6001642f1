import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from expanders.errors import SettingError
from expanders.models import vgg16bn
from expanders.wiring import functional, native, operator
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.wire import sparsify

needs_compiler = pytest.mark.skipif(
    not native.is_available(), reason="no C++ compiler for the sparse operator"
)


def random_edges(num_left: int, num_right: int, num_edges: int) -> torch.Tensor:
    chosen = torch.randperm(num_left * num_right)[:num_edges].sort().values
    return torch.stack([chosen % num_left, chosen // num_left])


def conv(num_left, num_right, edges, kernel_size=(3, 3), dtype=torch.float64, **options):
    layer = SparseConv2d(num_left, num_right, kernel_size, edges, **options).to(dtype)
    nn.init.normal_(layer.weight)
    return layer


def run(layer: SparseLayer, x: torch.Tensor, execution: operator.Execution) -> list[torch.Tensor]:
    """Output, gradient of the input and gradients of the parameters, over edges or densely."""
    layer.execution = execution
    x = x.detach().requires_grad_()
    y = layer(x)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), slope)]


def check_both_agree(layer: SparseLayer, x: torch.Tensor) -> None:
    for sparse, dense in zip(run(layer, x, "sparse"), run(layer, x, "dense"), strict=True):
        torch.testing.assert_close(sparse, dense)


kernels = st.sampled_from([(1, 1), (3, 3), (7, 7), (5, 2), (3, 1)])
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
pads = st.one_of(st.just("same"), st.tuples(st.integers(0, 4), st.integers(0, 4)))


@needs_compiler
@settings(max_examples=100, deadline=None)
@given(
    kernel_size=kernels,
    stride=pairs,
    padding=pads,
    dilation=st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 3)]),
    size=st.tuples(st.integers(1, 36), st.integers(1, 36)),
    batch=st.integers(1, 9),
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    density=st.floats(0, 1),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_convolution_over_edges_equals_dense(
    kernel_size, stride, padding, dilation, size, batch, channels, density, bias, seed
):
    """Outputs and all gradients; empty rows and columns and complete graphs are among the draws."""
    torch.manual_seed(seed)
    left, right = channels
    reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    size = [max(s, r) for s, r in zip(size, reach, strict=True)]
    stride = (1, 1) if padding == "same" else stride
    edges = random_edges(left, right, round(density * left * right))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    layer = conv(left, right, edges, kernel_size, **options)
    check_both_agree(layer, torch.randn(batch, left, *size, dtype=torch.float64))


@needs_compiler
@pytest.mark.parametrize("side", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("batch", [1, 33])
def test_planes_of_vgg_in_float32(side, batch):
    layer = conv(5, 7, random_edges(5, 7, 17), padding=(1, 1), bias=False)
    x = torch.randn(batch, 5, side, side, dtype=torch.float64)
    exact = run(layer, x, "dense")
    for single, double in zip(run(layer.float(), x.float(), "sparse"), exact, strict=True):
        assert (single - double).abs().max() < 1e-5 * double.abs().max()


@needs_compiler
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_modes(padding_mode):
    layer = conv(3, 4, random_edges(3, 4, 7), padding=(2, 1), padding_mode=padding_mode)
    check_both_agree(layer, torch.randn(2, 3, 9, 7, dtype=torch.float64))


@needs_compiler
@pytest.mark.parametrize("num_edges", [0, 5, 35])
@pytest.mark.parametrize("batch", [(), (1,), (33,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_over_edges_equals_dense(num_edges, batch, bias):
    layer = SparseLinear(5, 7, random_edges(5, 7, num_edges), bias=bias).double()
    nn.init.normal_(layer.weight)
    check_both_agree(layer, torch.randn(*batch, 5, dtype=torch.float64))


@needs_compiler
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 17, 64, 65, 200])
@pytest.mark.parametrize("shape", [(3, 70), (16, 16), (64, 33), (129, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_of_all_sizes(tokens, shape, dtype):
    """Around the sizes at which tokens and features are cut into tiles."""
    tolerance = 3e-5 if dtype == torch.float32 else 1e-12  # of sums of up to 200 terms
    left, right = shape
    layer = SparseLinear(left, right, random_edges(left, right, left * right // 3)).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for x in (torch.randn(tokens, left), torch.randn(left, tokens).T):
        exact = run(layer.double(), x.double(), "dense")
        for ours, double in zip(run(layer.to(dtype), x.to(dtype), "sparse"), exact, strict=True):
            assert (ours - double).abs().max() < tolerance * double.abs().max()


@needs_compiler
def test_inputs_in_any_memory_order():
    layer = conv(6, 4, random_edges(6, 4, 10), padding=(1, 1))
    x = torch.randn(3, 6, 8, 10, dtype=torch.float64)
    check_both_agree(layer, x.contiguous(memory_format=torch.channels_last))
    check_both_agree(layer, torch.randn(3, 12, 8, 10, dtype=torch.float64)[:, ::2])
    check_both_agree(layer, torch.randn(1, 6, 1, 1, dtype=torch.float64).expand(2, 6, 5, 5))


@needs_compiler
def test_empty_batch():
    layer = conv(3, 4, random_edges(3, 4, 7))
    assert run(layer, torch.randn(0, 3, 8, 8, dtype=torch.float64), "sparse")[0].shape[0] == 0


@needs_compiler
def test_only_the_gradients_asked_for():
    layer = conv(3, 4, random_edges(3, 4, 6), bias=False)
    layer.execution = "sparse"
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@needs_compiler
def test_no_dense_weight_in_sparse_execution(monkeypatch):
    monkeypatch.setattr(SparseLayer, "dense_weight", None)
    layer = conv(6, 6, random_edges(6, 6, 8), padding=(1, 1))
    run(layer, torch.randn(2, 6, 8, 8, dtype=torch.float64), "sparse")


GEOMETRIES = [{"padding": (1, 1)}, {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}]


@needs_compiler
class TestDerivatives:
    """Of any order in reverse, mapped and compiled, and refused in forward mode."""

    @staticmethod
    def layer(**options) -> SparseConv2d:
        torch.manual_seed(0)
        layer = conv(3, 4, random_edges(3, 4, 6), bias=False, **options)
        layer.execution = "sparse"
        return layer

    @staticmethod
    def loss(layer: SparseLayer, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).sin().sum()

    def both(self, layer: SparseLayer, derive, *inputs: torch.Tensor) -> None:
        """`derive(loss)(weight, *inputs)` over edges and densely."""
        results = []
        for execution in ("sparse", "dense"):
            layer.execution = execution
            results.append(derive(partial(self.loss, layer))(layer.weight.detach(), *inputs))
        torch.testing.assert_close(*results)
        assert results[0].abs().max() > 1e-3

    @pytest.mark.parametrize("options", GEOMETRIES)
    def test_first_and_second_derivatives_are_those_of_finite_differences(self, options):
        layer = self.layer(**options)
        x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)

        def output(x, weight):
            return torch.func.functional_call(layer, {"weight": weight}, (x,))

        assert torch.autograd.gradcheck(output, (x, layer.weight))
        assert torch.autograd.gradgradcheck(output, (x, layer.weight))

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize("of", [0, 1], ids=["weight", "x"])
    def test_derivatives_by_torch_func_equal_dense(self, order, of):
        def derive(loss):
            for _ in range(order - 1):
                inner = torch.func.grad(loss)
                loss = lambda w, x, inner=inner: inner(w, x).square().mean()  # noqa: E731
            return torch.func.grad(loss, argnums=of)

        x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
        self.both(self.layer(padding=(1, 1)), derive, x)

    def test_linear_layers_too(self):
        layer = SparseLinear(5, 7, random_edges(5, 7, 12)).double()
        x = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(12, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
        inputs = (x, weight, bias)

        def output(x, weight, bias):
            return functional.linear(x, weight, bias, layer.edges, 7)

        assert torch.autograd.gradcheck(output, inputs)
        assert torch.autograd.gradgradcheck(output, inputs)
        layer.weight, penalties = nn.Parameter(weight.detach()), []
        for layer.execution in ("sparse", "dense"):
            (slope,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
            penalties.append(torch.autograd.grad(slope.square().sum(), tuple(layer.parameters())))
        torch.testing.assert_close(*penalties)
        assert all(gradient.abs().max() > 0 for gradient in penalties[0])

    @pytest.mark.parametrize("dims", [(0, None), (None, 1), (0, 0)], ids=["weights", "x", "both"])
    def test_mapped_over_weights_and_images(self, dims):
        layer = self.layer(padding=(1, 1))
        x = torch.randn(2, 5, 3, 5, 6, dtype=torch.float64)
        x = x.transpose(0, 1) if dims == (0, 0) else x if dims[1] == 1 else x[:, 0]
        scales = torch.linspace(1, 2, 5, dtype=torch.float64).view(5, 1, 1, 1)

        def derive(loss):
            mapped = torch.func.vmap(torch.func.grad(loss), dims)
            return lambda weight, x: mapped(weight * scales if dims[0] == 0 else weight, x)

        self.both(layer, derive, x)

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by PyTorch's own jvp
    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("derive", ["jvp", "jacfwd", "hessian"])
    def test_forward_mode_is_refused(self, derive, compiled):
        layer = self.layer(padding=(1, 1))
        x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
        loss = partial(self.loss, layer)
        weight = layer.weight.detach()

        def derivative(weight):
            along = partial(loss, x=x)
            if derive == "jvp":
                return torch.func.jvp(along, (weight,), (weight,))[1]
            return getattr(torch.func, derive)(along)(weight)

        run = torch.compile(derivative, backend="aot_eager") if compiled else derivative
        with pytest.raises(Exception, match="no forward-mode derivatives"):
            run(weight)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # read by opcheck
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_operators_declare_themselves_correctly(self, dtype):
        """Schema, fake kernels, autograd and the compiler, as PyTorch checks custom operators."""
        x = torch.randn(2, 3, 6, 5, dtype=dtype, requires_grad=True)
        weight = torch.randn(7, 3, 2, dtype=dtype, requires_grad=True)
        edges, geometry = random_edges(3, 4, 7), ((2, 1), (1, 0, 2, 1), (1, 2))
        operators = torch.ops.expanders
        bias = torch.randn(4, dtype=dtype, requires_grad=True)
        for ends in ((None, False), (bias, True)):
            arguments = (x, weight, ends[0], edges, 4, *geometry, ends[1])
            torch.library.opcheck(operators.sparse_conv2d.default, arguments)
        grad = torch.randn_like(operators.sparse_conv2d(*arguments)).requires_grad_()
        for needs in ((True, True), (True, False), (False, True)):
            arguments = (grad, x, weight, edges, *geometry, *needs)
            torch.library.opcheck(operators.sparse_conv2d_backward.default, arguments)
        x, weight = x[:, :, 0, 0].detach().requires_grad_(), weight[:, 0, 0].detach()
        weight.requires_grad_()
        for shift in (bias, None):
            arguments = (x, weight, shift, edges, 4)
            torch.library.opcheck(operators.sparse_linear.default, arguments)
        grad = torch.randn(2, 4, dtype=dtype, requires_grad=True)
        for needs in ((True, True, True), (True, False, False), (False, True, True)):
            arguments = (grad, x, weight, edges, *needs)
            torch.library.opcheck(operators.sparse_linear_backward.default, arguments)

    def test_compiled_gradients(self):
        layer = self.layer(padding=(1, 1))
        x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
        exact = run(layer, x, "sparse")
        torch.compiler.reset()
        y = torch.compile(layer, backend="aot_eager", fullgraph=True)(x.requires_grad_())
        torch.testing.assert_close(y, exact[0])
        slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
        torch.testing.assert_close(
            torch.autograd.grad(y, (x, layer.weight), slope), tuple(exact[1:])
        )


class TestNetwork:
    @staticmethod
    def network(execution: operator.Execution, degree: int = 3) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 16, 1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 16, 12), nn.ReLU(), nn.Linear(12, 4),
        )  # fmt: skip
        sparsify(model, degree=degree, seed=1)
        set_execution(model, execution)
        return model.double()

    def train(self, model: nn.Module, steps: int = 20) -> nn.Module:
        data = torch.Generator().manual_seed(5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        for _ in range(steps):
            x = torch.randn(16, 3, 8, 8, dtype=torch.float64, generator=data)
            y = torch.randint(4, (16,), generator=data)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model

    @needs_compiler
    @pytest.mark.parametrize("execution", ["sparse", "auto"])
    @pytest.mark.parametrize("degree", [3, 12])
    def test_twenty_training_steps_agree(self, execution, degree):
        ours = self.train(self.network(execution, degree)).state_dict()
        dense = self.train(self.network("dense", degree)).state_dict()
        torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-9)

    @needs_compiler
    def test_repeated_runs_give_the_same_bits(self):
        first, second = (self.train(self.network("sparse")).state_dict() for _ in range(2))
        for name, value in first.items():
            assert torch.equal(value, second[name]), name

    @needs_compiler
    def test_state_dicts_are_interchangeable(self):
        sparse, dense = self.train(self.network("sparse")), self.network("dense")
        assert list(sparse.state_dict()) == list(dense.state_dict())
        dense.load_state_dict(sparse.state_dict())
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(dense.eval()(x), sparse.eval()(x))

    @needs_compiler
    def test_other_edges_from_a_state_dict_and_deepcopy(self):
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        other = self.network("sparse")
        sparsified = copy.deepcopy(other).float().double()
        edges = sparsified[3].edges
        sparsified[3].edges = torch.stack([(edges[0] + 1) % 16, edges[1]])
        order = (sparsified[3].edges[1] * 16 + sparsified[3].edges[0]).argsort()
        sparsified[3].edges = sparsified[3].edges[:, order]
        other.load_state_dict(sparsified.state_dict())
        output = other.eval()(x)
        set_execution(other, "dense")
        torch.testing.assert_close(output, other(x))

    @needs_compiler
    def test_inference_mode(self):
        model = self.network("sparse").eval()
        x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        expected = model(x)
        with torch.inference_mode():
            assert torch.equal(model(x), expected)

    @needs_compiler
    def test_traces_without_graph_breaks(self):
        eager = self.train(self.network("sparse"), 3)
        compiled = self.network("sparse")
        self.train(torch.compile(compiled, backend="aot_eager", fullgraph=True), 3)
        torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


def set_execution(model: nn.Module, execution: operator.Execution) -> None:
    for layer in model.modules():
        if isinstance(layer, SparseLayer):
            layer.execution = execution


@needs_compiler
def test_bad_edges_raise_instead_of_reading_foreign_memory():
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(1, 3, 3)
    for edge in ([[3], [0]], [[0], [4]], [[-1], [0]]):
        with pytest.raises(IndexError, match="out of range"):
            functional.conv2d(x, weight, torch.tensor(edge), 4)


@needs_compiler
def test_every_kernel_has_an_edge_and_steps_are_positive():
    x, weight, edge = torch.randn(1, 3, 5, 5), torch.randn(2, 3, 3), torch.tensor([[0], [0]])
    with pytest.raises(RuntimeError, match=r"edges must be \(2, 2\)"):
        functional.conv2d(x, weight, edge, 4)
    for options in ({"stride": (0, 1)}, {"dilation": (1, 0)}):
        with pytest.raises(RuntimeError, match="must be above 0"):
            functional.conv2d(x, weight[:1], edge, 4, **options)


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (2, 2, 5, 5), (3, 5, 5)])
def test_input_of_another_shape_raises_in_both(execution, shape):
    layer = conv(3, 4, random_edges(3, 4, 7))
    layer.execution = execution
    with pytest.raises(RuntimeError, match=r"expected images \(N, 3, H, W\), got"):
        layer(torch.randn(shape, dtype=torch.float64))


@needs_compiler
def test_kernel_larger_than_image_raises():
    with pytest.raises(RuntimeError, match="larger than"):
        functional.conv2d(
            torch.randn(1, 3, 2, 5), torch.randn(1, 3, 3), torch.tensor([[0], [0]]), 4
        )


def test_unknown_execution_is_refused():
    layer = conv(3, 4, random_edges(3, 4, 6))
    with pytest.raises(SettingError, match="execution=fast: choose auto, dense or sparse"):
        layer.execution = "fast"
    assert layer.execution == "auto"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_compute_densely(dtype):
    layer = conv(3, 4, random_edges(3, 4, 6), dtype=dtype)
    layer.execution = "sparse"
    assert layer.chosen_execution() == "dense"
    assert layer(torch.randn(1, 3, 5, 5, dtype=dtype)).dtype == dtype


@needs_compiler
def test_under_autocast_sparse_execution_stays_in_float32():
    layer = conv(3, 4, random_edges(3, 4, 6), dtype=torch.float32)
    x = torch.randn(1, 3, 5, 5)
    exact = run(layer, x.bfloat16().float(), "sparse")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for single, double in zip(run(layer, x.bfloat16(), "sparse"), exact, strict=True):
            torch.testing.assert_close(single.float(), double, rtol=1e-2, atol=1e-2)
        assert layer(x).dtype == torch.float32
        layer.execution = "dense"
        assert layer(x).dtype == torch.bfloat16


def test_auto_computes_sparsely_for_few_edges_only():
    chosen = {}
    for degree in (3, 64):
        model = vgg16bn()
        sparsify(model, degree=degree)
        chosen[degree] = model.features[3].chosen_execution()
        first = model.features[0].chosen_execution()  # complete, but of three input channels
        assert first == ("sparse" if native.is_available() else "dense")
    assert chosen == {3: "sparse" if native.is_available() else "dense", 64: "dense"}


FALLBACK = """
import torch
from expanders.wiring.layers import SparseConv2d
layer = SparseConv2d(2, 2, (3, 3), torch.tensor([[0], [1]]))
layer.execution = "sparse"
torch.nn.init.ones_(layer.weight)
for _ in range(2):
    y = layer(torch.ones(1, 2, 3, 3))
assert y.flatten().tolist() == [0, 9], y
"""


def test_without_a_compiler_layers_compute_densely_and_one_warning_says_so(tmp_path):
    environment = os.environ | {
        "PATH": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment.pop("CXX", None)
    result = subprocess.run(
        [sys.executable, "-c", FALLBACK],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("compute densely") == 1
    assert len(result.stderr.splitlines()) == 1


SLOW_COMPILER = """#!/bin/sh
[ "$1" = --version ] && exec echo slow
for last; do :; done
head -c 1000 {library} > "$last"
sleep 1
cp {library} "$last"
"""


@needs_compiler
def test_two_processes_can_build_at_the_same_time(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(SLOW_COMPILER.format(library=native.library()))
    compiler.chmod(0o755)
    environment = os.environ | {
        "CXX": str(compiler),
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", FALLBACK]
    jobs = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for job in jobs:
        assert job.communicate() == (None, "")
        assert job.returncode == 0
    assert len(list((tmp_path / "expanders").iterdir())) == 1
