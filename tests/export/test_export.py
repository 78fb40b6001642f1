import subprocess
import sys
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from expanders import graphs
from expanders.data import Transform
from expanders.export import __main__ as command
from expanders.export import formats, plain, writing
from expanders.export.network import Trained, read
from expanders.export.writing import encode, write
from expanders.files import write_sealed
from expanders.runs import checkpoint, folders
from expanders.runs.checkpoint import Blueprint
from expanders.seeds import stream
from expanders.wiring.fold import without_norms
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.wire import sparsify
from tests.export.conftest import DIGITS, OWN

TRANSFORM = {"mean": [125.3, 123.0, 113.9], "std": [63.0, 62.1, 66.7], "pad": 4, "crop": 32}


class Named(Blueprint):
    """A blueprint that can be a key."""

    __hash__ = object.__hash__


RESNET32 = Named("expanders.models.resnet32", {"num_classes": 10})
RESNET18 = Named("expanders.models.resnet18", {"num_classes": 10, "stem": "cifar"})
VGG16BN = Named("expanders.models.vgg16bn", {"num_classes": 10})


@cache
def trained(blueprint=RESNET32, graph=graphs.rreg, degree=3):
    """A network whose batch norms have seen images."""
    torch.manual_seed(0)
    model = blueprint.build()
    sparsify(model, graph, degree, fan="live")
    transform = Transform(**TRANSFORM)
    with torch.no_grad():
        for pixels in torch.randint(256, (3, 8, 3, 32, 32), dtype=torch.uint8):
            model(transform.eval(pixels))
    return Trained(model.eval(), blueprint, transform, 32)


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of resnet32."""
    checkpoint.save(tmp_path / "best.pt", trained().network, RESNET32)
    transform = {"_target_": "expanders.data.Transform", **TRANSFORM}
    dataset = {"val_fraction": 0.1, "transform": transform, "source": DIGITS}
    config = {"dataset": dataset, "seed": 0, "seeds": {"data": None}, "definition": {}}
    write_sealed(tmp_path / "config.json", config)
    folders.write_summary(tmp_path, {}, folders.run_digest(config))
    return tmp_path


def assert_close(actual, expected):
    tolerance = 1e-5 * max(1, float(expected.abs().max()))
    assert torch.allclose(actual, expected, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------ layers


def random_edges(num_left, num_right, num_edges):
    if num_edges == 0:
        return torch.zeros(2, 0, dtype=torch.int64)
    return torch.as_tensor(graphs.random(num_left, num_right, num_edges, stream(0, "graph")))


def always(layer):
    return True


def fill(layer):
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(layer).eval()


@pytest.mark.parametrize("num_edges", [0, 1, 12, 60, 120])
@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        ((1, 1), {}),
        ((3, 3), {"padding": (1, 1), "bias": False}),
        ((3, 3), {"padding": (1, 1), "stride": (2, 2)}),
        ((3, 1), {"padding": (2, 0), "dilation": (2, 1)}),
        ((2, 2), {"padding": "same"}),
        ((3, 3), {"padding": (1, 2), "padding_mode": "reflect"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@torch.no_grad()
def test_plain_convolutions_compute_the_same(num_edges, kernel_size, options):
    edges = random_edges(10, 12, num_edges)
    model = fill(SparseConv2d(10, 12, kernel_size, edges, **options))
    x = torch.randn(2, 10, 9, 7)
    for rebuilt in (plain.gathered(model, always), plain.dense(model)):
        assert_close(rebuilt(x), model(x))


@pytest.mark.parametrize("num_edges", [0, 12, 120])
@pytest.mark.parametrize("shape", [(10,), (3, 10), (2, 3, 10)])
@torch.no_grad()
def test_plain_linear_layers_compute_the_same(num_edges, shape):
    model = fill(SparseLinear(10, 12, random_edges(10, 12, num_edges)))
    x = torch.randn(shape)
    for rebuilt in (plain.gathered(model, always), plain.dense(model)):
        assert_close(rebuilt(x), model(x))


def test_gathers_hold_live_weights_and_nothing_else():
    layer = SparseConv2d(10, 12, (3, 3), random_edges(10, 12, 30), bias=False)
    conv = plain.gathered(fill(layer), always)[0]
    assert isinstance(conv, plain.GatheredConv2d)
    kernels = [slot[1].weight for slot in conv.slots]
    assert sum(kernel.shape[0] for kernel in kernels) == 30
    assert all(kernel.shape[1:] == (1, 3, 3) for kernel in kernels)


def test_a_layer_is_dense_where_gathers_would_be_larger():
    kinds = {}
    for kernel_size in ((3, 3), (1, 1)):
        for num_edges in (50, 70, 110):
            layer = SparseConv2d(10, 12, kernel_size, random_edges(10, 12, num_edges))
            kinds[kernel_size, num_edges] = type(
                plain.gathered(fill(layer), plain.is_smaller_gathered)[0]
            )
    dense = {key for key, kind in kinds.items() if kind is nn.Conv2d}
    assert dense == {((3, 3), 110), ((1, 1), 70), ((1, 1), 110)}


def test_a_layer_is_dense_where_gathers_would_be_slower():
    def is_faster(kernel_size, stride, num_edges, pixels):
        edges = random_edges(64, 64, num_edges)
        layer = SparseConv2d(64, 64, (kernel_size,) * 2, edges, stride=(stride,) * 2)
        return plain.is_faster_gathered(layer, pixels)

    for num_edges, large, small, strided, pointwise in (
        (60, True, True, True, True),
        (350, True, True, False, False),
        (500, True, False, False, False),
        (1000, False, False, False, False),
    ):
        assert is_faster(3, 1, num_edges, 8 * 8) == large
        assert is_faster(3, 1, num_edges, 4 * 4) == small
        assert is_faster(3, 2, num_edges, 16 * 16) == strided
        assert is_faster(1, 1, num_edges, 16 * 16) == pointwise


def test_the_pixels_of_every_layer_are_known():
    this = trained(VGG16BN)
    pixels = plain.output_pixels(this.network, 32)
    named = {name: pixels[m] for name, m in this.network.named_modules() if m in pixels}
    assert named["features.3"] == 32 * 32
    assert named["features.40"] == 2 * 2
    assert named["classifier.0"] == 1


def test_at_degree_60_the_onnx_file_is_dense():
    """Gathers of that many edges are slower on some machines; see `plain.is_faster_gathered`."""
    file = onnx.load_from_string(encode(trained(VGG16BN, degree=60), "onnx"))
    assert not any(node.op_type == "Gather" for node in file.graph.node)


# -------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("graph", [graphs.rreg, graphs.xnet, graphs.random, graphs.dense])
@pytest.mark.parametrize("blueprint", [VGG16BN, RESNET18, RESNET32], ids=["vgg", "r18", "r32"])
@torch.no_grad()
def test_rebuilt_networks_compute_the_same_without_norms(blueprint, graph):
    this = trained(blueprint, graph)
    images = this.images(2)
    network = plain.gathered(without_norms(this.network), plain.is_smaller_gathered)
    assert_close(this.complete(network)(images), this.complete(this.network)(images))
    assert not any(isinstance(m, nn.BatchNorm2d | SparseLayer) for m in network.modules())


@pytest.mark.parametrize(
    ("blueprint", "graph", "degree"),
    [(VGG16BN, graphs.random, 1), (RESNET18, graphs.rreg, 3), (RESNET32, graphs.dense, 3)],
    ids=["vgg16bn-random", "resnet18-rreg", "resnet32-dense"],
)
@torch.no_grad()
def test_files_hold_live_weights_and_compute_the_same(tmp_path, blueprint, graph, degree):
    this = trained(blueprint, graph, degree)
    network = this.complete(plain.gathered(without_norms(this.network), plain.is_smaller_gathered))
    program = formats.trace(network, 32, 32)
    images = this.images(3)
    expected = this.complete(this.network)(images)

    layers = [m for m in this.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers += [m for m in this.network.modules() if isinstance(m, SparseLayer)]
    numbers = sum(layer.weight.numel() for layer in layers) + 6  # of the normalisation
    for layer in layers:
        numbers += layer.num_right if isinstance(layer, SparseLayer) else layer.weight.shape[0]

    path = tmp_path / "network.onnx"
    path.write_bytes(formats.onnx_file(program, this.metadata()))
    assert_close(formats.run_onnx(path, images), expected)
    assert_close(formats.run_onnx(path, images[:1]), expected[:1])
    tensors = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    floats = sum(t.size for t in tensors if t.dtype == np.float32)
    assert abs(floats - numbers) < 1000  # constants of operators; equal biases are stored once
    assert path.stat().st_size < 1.25 * sum(t.nbytes for t in tensors) + 50_000

    path = tmp_path / "network.pt2"
    path.write_bytes(formats.torch_file(program, this.metadata()))
    assert_close(formats.run_torch(path, images), expected)
    assert path.stat().st_size < 1.25 * sum(t.nbytes for t in tensors) + 150_000


def in_another_process(code, folder):
    command = [sys.executable, "-W", "ignore", "-I", "-c", code]
    subprocess.run(command, cwd=folder, check=True, timeout=300)


def test_onnx_needs_neither_this_package_nor_pytorch(run_folder, capsys):
    command.main([str(run_folder), "--images", "5"])
    output = capsys.readouterr().out
    assert f"{run_folder / 'network.onnx'}: 0." in output
    assert "the dense network       1." in output
    assert "red, green, blue; pixels of 0 to 255" in output
    this = read(run_folder)
    images = this.images(4)
    np.save(run_folder / "images.npy", images.numpy())
    with torch.no_grad():
        np.save(run_folder / "logits.npy", this.complete(this.network)(images).numpy())
    code = """
import json, sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession("network.onnx", providers=["CPUExecutionProvider"])
[logits] = session.run(["logits"], {"images": np.load("images.npy")})
assert abs(logits - np.load("logits.npy")).max() < 1e-5
facts = session.get_modelmeta().custom_metadata_map
assert facts["model"] == "resnet32" and facts["num_classes"] == "10"
assert json.loads(facts["prepared"])["mean"] == [125.3, 123.0, 113.9]
assert not {"torch", "expanders"} & {*sys.modules}
"""
    in_another_process(code, run_folder)


def test_torch_files_need_no_package(run_folder):
    this = read(run_folder)
    written = write(this, "torch", run_folder / "network.pt2")
    dense_size = len(encode(this, "torch", dense=True))
    assert written.size == (run_folder / "network.pt2").stat().st_size < dense_size / 5
    images = this.images(4)
    with torch.no_grad():
        torch.save((images, this.complete(this.network)(images)), run_folder / "expected.pt")
    code = """
import json, sys, torch
sys.modules["expanders"] = None
facts = {"metadata.json": ""}
network = torch.export.load("network.pt2", extra_files=facts).module()
images, logits = torch.load("expected.pt")
assert abs(network(images) - logits).max() < 1e-5
assert json.loads(facts["metadata.json"])["model"] == "resnet32"
"""
    in_another_process(code, run_folder)


def test_dense_weights_fit_the_dense_network(tmp_path):
    this = trained(VGG16BN, graphs.rreg)  # lacks biases that its dense twin has
    written = write(this, "dense-torch", tmp_path / "weights.pt")
    assert written.difference <= 1e-5 * max(1, written.largest)
    twin = VGG16BN.build().eval()
    twin.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert_close(twin(x), this.network(x))


def test_dense_onnx_has_dense_kernels(run_folder, capsys):
    path = run_folder / "plain.onnx"
    command.main(
        [
            str(run_folder / "best.pt"),
            "--format",
            "dense-onnx",
            "--output",
            str(path),
            "--images",
            "5",
        ]
    )
    graph = onnx.load(path).graph
    assert "Gather" not in {node.op_type for node in graph.node}
    assert [64, 64, 3, 3] in [list(tensor.dims) for tensor in graph.initializer]


def test_a_file_that_computes_something_else_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "run_state", lambda path, twin, images: torch.ones(1, 10))
    path = tmp_path / "weights.pt"
    for before in ([], [path]):
        for each in before:
            each.write_bytes(b"before")
        with pytest.raises(RuntimeError, match=f"^{path}: outputs of up to .* differ by"):
            write(trained(), "dense-torch", path)
        assert list(tmp_path.iterdir()) == before
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("form", "dtype"), [("onnx", "float32"), ("onnx", "int8"), ("torch", "float32")]
)
def test_a_file_that_cannot_be_run_leaves_what_was_there(
    own_run, tmp_path, monkeypatch, form, dtype
):
    ran = []

    def fail(trained, form, path, images):
        ran.append(path)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(writing, "_run", fail)
    path = tmp_path / "network.file"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="Cannot allocate memory"):
        write(read(own_run, model=OWN.target), form, path, dtype, 4)
    assert path.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [path, own_run]
    assert ran[0].suffix == ".file"


def test_a_c_file_that_does_not_compile_leaves_what_was_there(own_run, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "false")
    path = tmp_path / "network.c"
    path.write_bytes(b"before")
    with pytest.raises(subprocess.CalledProcessError):
        write(read(own_run, model=OWN.target), "c", path)
    assert path.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [path, own_run]


def test_an_export_that_cannot_be_written_names_the_file(tmp_path):
    path = tmp_path / "missing" / "weights.pt"
    with pytest.raises(FileNotFoundError) as caught:
        write(trained(), "dense-torch", path)
    assert caught.value.filename == str(path)


def test_without_a_config_the_network_takes_normalised_images(run_folder):
    (run_folder / "config.json").unlink()
    this = read(run_folder / "best.pt", 32)
    assert this.complete(this.network) is this.network
    assert this.metadata()["images"].endswith("normalised")
