"""The kernels of the operators without PyTorch, on this processor and on 64-bit Arm."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "expanders" / "wiring" / "csrc"
TOOLS = {
    "native": (["c++", "-march=native"], []),
    "aarch64": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"]),
}


@pytest.fixture(scope="module", params=TOOLS)
def program(request, tmp_path_factory) -> list[str]:
    """The command that runs `kernels.cpp`, compiled for one kind of processor."""
    compiler, emulator = TOOLS[request.param]
    for tool in (compiler[0], *emulator):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    target = tmp_path_factory.mktemp("kernels") / "kernels"
    options = ["-std=c++20", "-O1", "-fopenmp", f"-I{HEADERS}"]
    command = [*compiler, *options, str(HERE / "kernels.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*emulator, str(target)]


def edges(num_left: int, num_right: int) -> Tensor:
    chosen = torch.randperm(num_left * num_right)[: num_left * num_right // 2].sort().values
    return torch.stack([chosen % num_left, chosen // num_left])


def check(program: list[str], layer: SparseLayer, x: Tensor, arguments: list[object]) -> None:
    """What the program computes is what PyTorch computes densely."""
    layer.execution = "dense"
    x.requires_grad_()
    y = layer(x)
    slope = torch.randn_like(y)
    # The gradients are compared without the ReLU, which the kernels leave to their caller.
    linear = isinstance(layer, SparseLinear)
    wanted = (x, layer.weight, layer.bias) if linear else (x, layer.weight)
    gradients = torch.autograd.grad(y, wanted, slope)
    numbers = [layer.edges, x, layer.weight, layer.bias, slope]
    text = " ".join(str(value) for tensor in numbers for value in tensor.flatten().tolist())
    command = [*program, *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    ours = torch.tensor([float(line) for line in done.stdout.split()])
    expected = [y if linear else F.relu(y), *gradients]
    for values in expected:
        mine, ours = ours[: values.numel()], ours[values.numel() :]
        torch.testing.assert_close(mine.view_as(values), values.detach(), rtol=1e-4, atol=1e-4)
    assert ours.numel() == 0


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), (9, 11)),
        ((3, 3), (2, 2), (1, 1), (1, 1), (8, 8)),
        ((1, 1), (1, 1), (0, 0), (1, 1), (5, 5)),
        ((5, 2), (1, 2), (2, 0), (1, 2), (12, 9)),
    ],
    ids=["3x3", "stride", "1x1", "all different"],
)
def test_convolution(program, kernel, stride, padding, dilation, size):
    torch.manual_seed(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = SparseConv2d(5, 7, kernel, edges(5, 7), **options)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    axes = [
        number
        for i in range(2)
        for number in (size[i], kernel[i], stride[i], padding[i], padding[i], dilation[i])
    ]
    x = torch.randn(3, 5, *size)
    check(program, layer, x, ["conv2d", 3, 5, 7, layer.num_edges, *axes])


@pytest.mark.parametrize("tokens", [1, 37])
def test_linear_layer(program, tokens):
    torch.manual_seed(0)
    layer = SparseLinear(33, 17, edges(33, 17))
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    check(program, layer, torch.randn(tokens, 33), ["linear", tokens, 33, 17, layer.num_edges])
