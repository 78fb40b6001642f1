"""One call that exports any network, also one that the launcher did not build."""

import copy
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import expanders
from expanders.data import Transform
from expanders.errors import SettingError
from expanders.export import formats
from expanders.export.c.compiled import compiler, run_c
from tests.export.conftest import OWN

TRANSFORM = Transform(mean=(77.8,) * 3, std=(82.6,) * 3)


@pytest.fixture
def model():
    """A sparsified network that is no function's, in training mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)]
    model = nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    expanders.sparsify(model, graph=expanders.graphs.rreg, degree=3)
    return model.train()


def expected(model, images):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images)


def assert_close(actual, wanted):
    assert (actual - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_networks_of_any_origin(model, tmp_path):
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(3, 3, 12, 12)
    runners = {"onnx": formats.run_onnx, "torch": formats.run_torch, "dense-onnx": formats.run_onnx}
    for form, run in runners.items():
        path = tmp_path / form
        written = expanders.export_network(model, path, size=12, format=form)
        assert written.size == path.stat().st_size
        assert_close(run(path, images), expected(model, images))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_pixels_are_normalised_by_the_file(model, tmp_path):
    pixels = torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8)
    wanted = expected(model, TRANSFORM.eval(pixels))
    for form, run in {"onnx": formats.run_onnx, "c": run_c}.items():
        expanders.export_network(model, tmp_path / form, size=12, format=form, transform=TRANSFORM)
        assert_close(run(tmp_path / form, pixels.float()), wanted)


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_the_c_file_runs_in_this_process_on_several_threads(model, tmp_path):
    path = tmp_path / "network.c"
    expanders.export_network(model, path, size=12, format="c", transform=TRANSFORM)
    predict = expanders.CNetwork(path, threads=3)
    path.unlink()
    pixels = torch.randint(256, (32, 3, 12, 12), dtype=torch.uint8)
    wanted = expected(model, TRANSFORM.eval(pixels))
    for images in (slice(0, 1), slice(3, 5), slice(None)):
        assert_close(predict(pixels[images]), wanted[images])
    assert_close(predict(pixels.contiguous(memory_format=torch.channels_last)), wanted)
    with ThreadPoolExecutor(8) as callers:  # more than there are copies of the network
        for logits in callers.map(predict, [pixels] * 64):
            assert_close(logits, wanted)
    assert predict(pixels[:0]).shape == (0, 5)
    with torch.device("meta"):
        torch.set_default_dtype(torch.float64)
        try:
            assert_close(predict(pixels), wanted)
        finally:
            torch.set_default_dtype(torch.float32)
    assert (predict.shape, predict.classes) == ((3, 12, 12), 5)


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_what_a_c_file_cannot_take_is_named(model, tmp_path):
    path = tmp_path / "network.c"
    expanders.export_network(model, path, size=12, format="c", transform=TRANSFORM)
    with pytest.raises(SettingError, match="threads=0: must be at least 1"):
        expanders.CNetwork(path, threads=0)
    predict = expanders.CNetwork(path, threads=1)
    bytes_ = torch.zeros(1, 3, 12, 12, dtype=torch.uint8)
    shapes = bytes_.float(), bytes_[0], bytes_[..., 1:], bytes_.to("meta"), bytes_.numpy()
    for pixels in shapes:
        with pytest.raises(SettingError, match=r"pixels=.*: .* uint8 \(N, 3, 12, 12\), on the CPU"):
            predict(pixels)
    other = tmp_path / "other.c"
    for content in (b"int main(void) { return 0; }", bytes(range(256))):
        other.write_bytes(content)
        with pytest.raises(SettingError, match=r"path=.*other.c: is no C file of a network"):
            expanders.CNetwork(other)
    other.write_text(path.read_text() + "syntax error")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        expanders.CNetwork(other)
    assert "error:" in caught.value.__notes__[0]


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_the_c_file_survives_an_interrupt_and_a_fork(model, tmp_path, monkeypatch):
    path = tmp_path / "network.c"
    expanders.export_network(model, path, size=12, format="c", transform=TRANSFORM)
    monkeypatch.setenv("CC", f"{shutil.which('env')} {' '.join(compiler())}")  # with an argument
    predict = expanders.CNetwork(path, threads=1)
    pixels = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    wanted = expected(model, TRANSFORM.eval(pixels))

    def interrupted(*_):
        raise KeyboardInterrupt

    idle = predict._idle.get()
    predict._idle.put(interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(pixels)
    assert predict._idle.get(timeout=1) is interrupted
    predict._idle.put(idle)
    both = pixels.repeat(2, 1, 1, 1)
    predict(both)  # threads have started
    child = os.fork()
    if not child:
        code = 1
        try:
            code = int(not torch.allclose(predict(both)[:1], wanted, atol=1e-4))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_eight_bits(own_network, parts, tmp_path):
    path = tmp_path / "network.onnx"
    train, val, test = parts
    transform = Transform(mean=(77.8,) * 3, std=(82.6,) * 3, pad=2, crop=32)
    written = expanders.export_network(
        own_network, path, size=32, dtype="int8", transform=transform, train=train, val=val
    )
    assert written.quantized.lost is not None
    classes = formats.run_onnx(path, test.pixels.float()).argmax(1)
    agreement = (classes == expected(own_network, transform.eval(test.pixels)).argmax(1)).float()
    assert agreement.mean() > 0.9


def test_what_is_missing_is_named(model, tmp_path, parts):
    def refused(match, **options):
        with pytest.raises(SettingError, match=match):
            expanders.export_network(model, tmp_path / "network", size=12, **options)

    refused("format=onx: choose onnx, c, torch", format="onx")
    refused("dtype=int4: choose float32 or int8", dtype="int4")
    refused("dtype=int8: is calibrated on training images", dtype="int8", transform=TRANSFORM)
    refused("dtype=int8: is calibrated on training images", dtype="int8", train=parts[0])
    refused("format=dense-torch: needs the function that builds", format="dense-torch")
    if compiler() is not None:
        refused("format=c: takes pixels, and it is not known how to normalise", format="c")


def test_dense_weights_of_a_network_with_a_blueprint(own_network, tmp_path):
    path = tmp_path / "weights.pt"
    expanders.export_network(own_network, path, size=32, format="dense-torch", blueprint=OWN)
    twin = OWN.build().eval()
    twin.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randn(2, 3, 32, 32)
    assert_close(expected(twin, images), expected(own_network, images))
