"""The command: what it prints of a file, networks of other packages, and what it refuses."""

import re

import onnxruntime
import pytest
import torch
from torch import nn

from expanders.data import Transform
from expanders.errors import SettingError
from expanders.export import __main__ as command
from expanders.export import comparison, writing
from expanders.export.c.compiled import compiler
from expanders.export.measure import Measured
from expanders.files import read_sealed, write_sealed
from expanders.runs import checkpoint
from expanders.runs.checkpoint import Blueprint
from tests.export import own
from tests.export.conftest import OWN, TRANSFORM, make_run

MODEL = ("--model", OWN.target)
needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


def export(capsys, *arguments):
    command.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def table(output):
    """Size in MB, time in ms and accuracy in percent of every file."""
    rows = re.findall(r"^(.+?) +([\d.]+) MB +([\d.]+) ms +([\d.]+)%$", output, re.M)
    return {name: tuple(map(float, values)) for name, *values in rows}


# --------------------------------------------------------------------------- what it prints


def expected_accuracy(network, parts):
    logits = network(Transform(**TRANSFORM).eval(parts[2].pixels))
    return float((logits.argmax(1) == parts[2].labels).float().mean())


@torch.no_grad()
def test_a_file_is_measured_beside_the_dense_network(own_run, own_network, parts, capsys):
    output = export(capsys, own_run, *MODEL)
    assert "one image at a time on one thread; 60 test images" in output
    accuracy = round(100 * expected_accuracy(own_network, parts), 2)
    rows = table(output)
    assert list(rows) == ["this file", "the dense network"]
    assert {row[2] for row in rows.values()} == {accuracy}
    assert all(row[1] > 0 for row in rows.values())
    assert re.search("(times as fast as|SLOWER than) the dense network", output)


def test_fewer_images_can_be_classified_or_none(own_run, capsys):
    assert "; 7 test images" in export(capsys, own_run, *MODEL, "--images", 7)
    output = export(capsys, own_run, *MODEL, "--images", 0)
    assert re.search(r"this file .* ms +-$", output, re.M)


def test_what_is_slower_is_said():
    rows = {
        "this file": Measured(100, 0.002, None),
        "in float32": Measured(200, 0.001, None),
        "the dense network": Measured(50, 0.01, None),
    }
    assert list(comparison.verdicts(rows)) == [
        "SLOWER than in float32: it takes 2.00 times as long, and is 2 times smaller",
        "5 times as fast as the dense network, and 2 times LARGER",
    ]


@needs_compiler
def test_c_tells_its_memory_and_is_measured(own_run, capsys):
    output = export(capsys, own_run, *MODEL, "--format", "c")
    text = (own_run / "network.c").read_text()
    constants, working = (
        int(re.search(rf"define NETWORK_{name}_BYTES (\d+)", text)[1])
        for name in ("READ_ONLY", "WORKING")
    )
    assert f"constants: {constants:,} bytes; working memory: {working:,} bytes" in output
    assert re.search(r"\d+% of the working memory is saved", output)
    rows = table(output)
    assert rows["this file"][2] == rows["the dense network"][2]


@needs_compiler
def test_c_needs_no_package(own_run, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    output = export(capsys, own_run, *MODEL, "--format", "c")
    assert list(table(output)) == ["this file"]
    assert "to compare with the dense network in onnxruntime: pip install" in output


def test_accuracy_is_left_out_where_there_are_no_images(own_run, capsys):
    (own_run / "config.json").unlink()
    output = export(capsys, own_run / "best.pt", *MODEL, "--size", 32)
    assert "accuracy not measured: " in output


# ----------------------------------------------------------------------- of other packages


def test_a_model_and_images_of_another_package_by_their_dotted_names(own_network, tmp_path, capsys):
    run = make_run(tmp_path, own_network, OWN, {"_target_": "tests.export.own.images"})
    output = export(capsys, run, *MODEL)
    assert "is of another package; to use it, say --source tests.export.own.images" in output
    output = export(capsys, run, *MODEL, "--source", "tests.export.own.images")
    assert "60 test images" in output
    session = onnxruntime.InferenceSession(run / "network.onnx")
    assert session.get_modelmeta().custom_metadata_map["model"] == "net"


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        command.main([str(argument) for argument in arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_no_code_of_another_package_runs_unless_it_is_named(own_run, capsys):
    message = refusal(capsys, own_run)
    assert f"model={OWN.target}: is of another package; to use it, say --model" in message
    message = refusal(capsys, own_run, "--model", "tests.export.own.nett")
    assert "tests.export.own.nett: must be the dotted name of a function" in message
    message = refusal(capsys, own_run, "--model", "tests.export.own.not_a_function")
    assert "must be the dotted name of a function" in message
    message = refusal(capsys, own_run, "--model", "expanders.models.resnet20")
    assert "does not fit the model" in message


# ------------------------------------------------------------------------------- refusals


def test_bad_input_is_refused_in_one_line(own_run, tmp_path, monkeypatch, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no such folder or file" in refusal(capsys, tmp_path / "nowhere")
    assert "holds no run" in refusal(capsys, empty)
    assert "not a checkpoint" in refusal(capsys, own_run / "config.json")
    assert "must be a file in a folder" in refusal(
        capsys, own_run, "--output", empty / "x" / "y.onnx"
    )
    assert "format c ends in .c" in refusal(
        capsys, own_run, "--format", "c", "--output", own_run / "net.onnx"
    )
    weights = (own_run / "best.pt").read_bytes()
    message = refusal(capsys, own_run, "--format", "dense-torch", "--output", own_run / "best.pt")
    assert "is a run's checkpoint; choose another name" in message
    assert (own_run / "best.pt").read_bytes() == weights
    assert "size=0: give the side length" in refusal(capsys, own_run, *MODEL, "--size", "0")
    assert "images=-1: must be 0 or more" in refusal(capsys, own_run, "--images", -1)
    config = own_run / "config.json"
    whole = config.read_bytes()
    for damaged in (b"", b"[]", b"{}", whole.replace(b'"seed": 0', b'"seed": 1'), whole[:-9]):
        config.write_bytes(damaged)
        assert "has a damaged config.json" in refusal(capsys, own_run, *MODEL)
    (own_run / "summary.json").rename(own_run / "last.pt")
    assert "not finished (to resume)" in refusal(capsys, own_run)
    (own_run / "config.json").unlink()
    assert "size=None: give the side length" in refusal(capsys, own_run / "best.pt", *MODEL)
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    assert "needs onnx and onnxscript and onnxruntime; pip install -e '.[export]'" in refusal(
        capsys, own_run
    )


def test_a_finished_run_without_its_best_network_is_refused(own_run, capsys):
    (own_run / "best.pt").unlink()
    assert "best.pt: no such file" in refusal(capsys, own_run, *MODEL)


def test_a_size_that_the_network_does_not_take_is_refused(own_run, tmp_path, capsys):
    assert "size=-3: give the side length" in refusal(capsys, own_run, *MODEL, "--size", -3)
    small = make_run(
        tmp_path, own.net(10, 4), Blueprint(OWN.target, {"num_classes": 10, "width": 4})
    )
    assert "size=24: does not suit the network: " in refusal(capsys, small, *MODEL, "--size", 24)

    class Picky(nn.Module):
        def forward(self, x):
            assert x.shape[-1] == 24, "24 pixels\nand no others"

    with pytest.raises(SettingError, match="size=32: does not suit the network: 24 pixels and no"):
        writing.export_network(Picky(), tmp_path / "x.onnx", size=32)


def test_networks_that_cannot_be_written_are_refused(tmp_path, capsys):
    blueprint = Blueprint("tests.export.own.moody", {"num_classes": 10, "width": 4})
    run = make_run(tmp_path, own.moody(10, 4), blueprint)
    named = ("--model", blueprint.target)
    assert "format=onnx: has no way to write this network" in refusal(capsys, run, *named)
    assert "format=torch: has no way to write this network" in refusal(
        capsys, run, *named, "--format", "torch"
    )
    if compiler() is not None:
        assert "there is no C for a flow of tensors" in refusal(
            capsys, run, *named, "--format", "c"
        )


def test_networks_that_compute_nothing_finite_are_refused(own_run, capsys):
    content = torch.load(own_run / "best.pt", weights_only=True)
    weight = next(name for name, value in content["state"].items() if value.is_floating_point())
    content["state"][weight][0] = float("nan")
    checkpoint.write(own_run / "best.pt", content)
    for form in ("onnx", "torch", "dense-torch"):
        message = refusal(capsys, own_run, *MODEL, "--format", form)
        assert f"run=net: {weight} is not finite: there is nothing to write" in message
    content["state"][weight][0] = 3e38
    checkpoint.write(own_run / "best.pt", content)
    assert "run=net: its outputs are not finite" in refusal(capsys, own_run, *MODEL)
    assert not list(own_run.glob("network*"))


def test_without_a_compiler_c_is_refused(own_run, monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    message = refusal(capsys, own_run, *MODEL, "--format", "c")
    assert "format=c: needs a C compiler to check the file; install one" in message


def test_eight_bits_without_images_to_calibrate_with_are_refused(own_run, tmp_path, capsys):
    int8 = (*MODEL, "--dtype", "int8")
    message = refusal(capsys, own_run, *int8, "--format", "c")
    assert "dtype=int8: is for the format onnx, not for c" in message
    message = refusal(capsys, own_run, *int8, "--size", 33)  # the run's have 32 pixels
    assert "dtype=int8: is calibrated on training images, and none are known" in message
    config = read_sealed(own_run / "config.json")
    config["dataset"]["source"] = {
        "_target_": "expanders.data.image_folder",
        "root": str(tmp_path / "gone"),
    }
    write_sealed(own_run / "config.json", config)
    assert str(tmp_path / "gone") in refusal(capsys, own_run, *int8)
    (own_run / "config.json").unlink()
    message = refusal(capsys, own_run / "best.pt", *int8, "--size", 32)
    assert "is calibrated on training images, and none are known" in message
    assert not list(own_run.glob("network*"))
