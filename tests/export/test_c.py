"""The C file of a network: compiled with all warnings as errors and sanitizers, run, compared."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from expanders import graphs, models
from expanders.data import digits
from expanders.errors import SettingError
from expanders.export import plain
from expanders.export.c.compiled import compiler, run_c
from expanders.export.c.constants import Constants
from expanders.export.c.generate import c_source
from expanders.wiring.layers import SparseConv2d, SparseLinear
from expanders.wiring.unstructured import UnstructuredConv2d
from expanders.wiring.wire import sparsify

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARM = {  # compiler, emulator
    "64-bit": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
    "32-bit": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
}
MEAN, STD = [77.8, 77.8, 77.8], [82.6, 82.6, 82.6]


def trained(name, degree=3, **options):
    """A network whose batch norms have statistics and parameters of their own."""
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=10, **options)
    if degree:
        sparsify(model, graphs.rreg, degree, fan="live")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def pixels():
    """Four digits of 32x32 pixels."""
    images = digits(num_images=200).load()[1].pixels[:4].float()
    return nn.functional.pad(images, (2, 2, 2, 2)) if images.shape[-1] < 32 else images


def expected(model, pixels):
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        return model((pixels - mean) / std)


def check(model, pixels, tmp_path, *command, emulator=()):
    size = pixels.shape[-1]
    path = tmp_path / "network.c"
    path.write_text(c_source(model, size, MEAN, STD, "a network").text)
    logits = run_c(path, pixels, command, emulator)
    reference = expected(model, pixels)
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize(
    ("name", "degree", "options"),
    [
        ("vgg16bn", 3, {}),
        ("resnet18", 3, {}),
        ("resnet18", 3, {"stem": "cifar"}),
        ("resnet50", 15, {"width": 0.25}),
        ("resnet20", None, {}),
        ("wideresnet", 3, {"depth": 10}),
    ],
)
def test_networks_of_the_suite(name, degree, options, pixels, tmp_path):
    model = trained(name, degree, **options)
    check(model, pixels, tmp_path, *compiler(), *STRICT, *SANITIZED)


@pytest.mark.parametrize("bits", ARM)
@pytest.mark.parametrize("name", ["vgg16bn", "resnet18"])
def test_on_arm(name, bits, pixels, tmp_path):
    cross, emulator = (shutil.which(program) for program in ARM[bits])
    if cross is None or emulator is None:
        pytest.skip(f"needs {' and '.join(ARM[bits])}")
    check(trained(name), pixels, tmp_path, cross, *STRICT, "-static", emulator=(emulator,))


class Weighted(nn.Module):
    """A sum with an option."""

    def forward(self, x):
        return torch.add(x, x, alpha=2)


class Aliased(nn.Module):
    """A tensor that is read under two names, of which one goes through a ReLU."""

    def __init__(self):
        super().__init__()
        self.conv, self.dropout = nn.Conv2d(6, 6, 1), nn.Dropout(0.5)

    def forward(self, x):
        y = self.conv(x)
        return torch.relu(self.dropout(y)) + y


LAYERS = {
    "a tensor of two names": Aliased(),
    "grouped convolution": nn.Conv2d(6, 4, 3, padding=2, groups=2, dilation=2),
    "no edge": SparseConv2d(6, 4, (3, 3), torch.zeros(2, 0, dtype=torch.int64)),
    "even kernel": nn.Conv2d(6, 4, 2, padding="same"),
    "uneven kernel": nn.Conv2d(6, 4, (1, 5), padding=(0, 2)),
    "strided 1x1": nn.Conv2d(6, 4, 1, stride=2),
    "padded maximum": nn.MaxPool2d(3, 2, 1),
    "mean": nn.AvgPool2d(3, 2, 1),
    "mean without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "norm first": nn.BatchNorm2d(6),
    **{type(f).__name__: f for f in (nn.ReLU6(), nn.LeakyReLU(), nn.Hardswish(), nn.GELU())},
    **{type(f).__name__: f for f in (nn.Hardsigmoid(), nn.Sigmoid(), nn.SiLU(), nn.Identity())},
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_single_layers(layer, tmp_path):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, 3)
    channels = layer(torch.zeros(2, 6, 9, 9)).shape[1]
    model = nn.Sequential(
        first, layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)
    )
    images = torch.randint(256, (3, 3, 11, 11)).float()
    check(model.eval(), images, tmp_path, *compiler(), *STRICT, *SANITIZED)


def test_single_weights_become_whole_kernels(pixels, tmp_path):
    """There are loops for kernels alone; weights that a kernel lacks are zeros of it."""
    torch.manual_seed(0)
    model = models.vgg16bn(num_classes=10, width=0.25)
    sparsify(model, graphs.rreg, 3, granularity="weight", fan="live")
    single = {name for name, m in model.named_modules() if type(m) is UnstructuredConv2d}
    assert len(single) == 13
    model.eval()
    whole = plain.whole_kernels(model)
    for name in single:
        layer, kernels = model.get_submodule(name), whole.get_submodule(name)
        assert type(kernels) is SparseConv2d
        assert torch.equal(kernels.dense_weight(), layer.dense_weight())
        assert kernels.num_edges == int(layer.mask().sum())
    assert {name for name, m in model.named_modules() if type(m) is UnstructuredConv2d} == single
    check(model, pixels, tmp_path, *compiler(), *STRICT, *SANITIZED)


def test_memory_is_used_again_and_small(tmp_path):
    source = c_source(trained("vgg16bn"), 32, MEAN, STD, "vgg16bn")
    assert source.read_only_bytes < 600_000
    assert source.working_bytes < 600_000 < source.unshared_bytes
    assert f"#define NETWORK_WORKING_BYTES {source.working_bytes}\n" in source.text


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.Softplus(), "there is no C for Softplus at 1"),
        (nn.MaxPool2d(2, ceil_mode=True), "there is no C for MaxPool2d"),
        (nn.AvgPool2d(2, divisor_override=3), "there is no C for AvgPool2d"),
        (nn.GELU("tanh"), "there is no C for GELU at 1"),
        (Weighted(), "there is no C for add at add"),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), "padding_mode=reflect at 1"),
    ],
)
def test_layers_without_c_are_named(layer, named):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SettingError, match=named):
        c_source(model.eval(), 8, MEAN, STD, "a network")


def test_the_example_prints_the_class_of_a_picture(pixels, tmp_path):
    folder = shutil.copytree(Path(__file__).parents[2] / "examples" / "c", tmp_path / "c")
    model = trained("vgg16bn")
    (folder / "network.c").write_text(c_source(model, 32, MEAN, STD, "vgg16bn").text)
    subprocess.run(["make", "CFLAGS=-O1"], cwd=folder, check=True, capture_output=True)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).byte().numpy())
    picture.save(folder / "digit.ppm")
    run = [folder / "classify", folder / "digit.ppm"]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert int(printed) == int(expected(model, pixels)[0].argmax())
    picture.resize((8, 8)).save(folder / "small.ppm")
    refused = subprocess.run(
        [folder / "classify", folder / "small.ppm"], check=False, capture_output=True, text=True
    )
    assert (refused.returncode, "not a binary PPM of 32x32" in refused.stderr) == (1, True)


def test_a_sparse_layer_of_too_many_inputs_for_its_numbers_is_refused():
    edges = torch.tensor([[0, 69_999], [0, 1]])
    with pytest.raises(SettingError, match=r"no C for a sparse layer of more than 65,536 inputs"):
        Constants().edges(SparseLinear(70_000, 2, edges))
