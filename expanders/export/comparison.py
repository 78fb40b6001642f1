"""An exported file beside the dense network, measured here and now, as lines of text."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from expanders.errors import SettingError, one_line
from expanders.export import Form
from expanders.export.measure import Measured, load_c, load_onnx, measure
from expanders.export.network import Trained
from expanders.export.pixels import Labelled
from expanders.export.writing import Written, encode

_NOTABLE = 0.97  # of the other's speed; what is above is as fast, as far as one can measure here


def compare(
    trained: Trained, written: Written, form: Form, path: Path, images: int
) -> Iterator[str]:
    """Lines on size, time and accuracy of a file and of the dense network, on one thread.

    Args:
        trained: the network.
        written: the file, an ONNX or C file at `path`.
        form: of the file.
        path: of the file.
        images: how many test images at most are classified.
    """
    try:
        test = _test_images(trained, images)
        about = f"{len(test.labels):,} test images"
    except (SettingError, OSError) as error:
        test = Labelled(trained.images(0), torch.zeros(0, dtype=torch.int64))
        about = f"accuracy not measured: {one_line(error)}"
    with TemporaryDirectory() as folder:
        files = {"this file": load_c(path) if form == "c" else load_onnx(path)}
        sizes = {"this file": written.source.read_only_bytes if written.source else written.size}
        for name, content in _others(trained, written, form).items():
            other = Path(folder) / f"{len(files)}.onnx"
            other.write_bytes(content)
            files[name], sizes[name] = load_onnx(other), len(content)
        measured = measure(files, sizes, trained.images(1), test)
    yield f"one image at a time on one thread; {about}"
    yield f"{'':20} {'size':>10} {'time':>10} {'accuracy':>9}"
    for name, one in measured.items():
        accuracy = "-" if one.accuracy is None else f"{one.accuracy:.2%}"
        yield f"{name:20} {one.size / 1e6:7.2f} MB {1e3 * one.seconds:7.2f} ms {accuracy:>9}"
    yield from verdicts(measured)
    if form == "c" and len(files) == 1:
        yield "to compare with the dense network in onnxruntime: pip install -e '.[export]'"


def _test_images(trained: Trained, count: int) -> Labelled:
    if trained.dataset is None:
        raise SettingError("run", "", "no images are known for this network and size")
    return trained.dataset.sample("test", count)


def _others(trained: Trained, written: Written, form: Form) -> dict[str, bytes]:
    """The ONNX files to compare with, as far as they can be made here."""
    others = {}
    if written.quantized is not None:
        others["in float32"] = written.quantized.before
    can = all(find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime"))
    if can and form != "dense-onnx":
        try:
            others["the dense network"] = encode(trained, "dense-onnx")
        except SettingError:
            if form != "c":
                raise
    return others


def verdicts(measured: dict[str, Measured]) -> Iterator[str]:
    """What a user would regret not to have seen in the table."""
    mine, *others = measured.values()
    for name, other in zip(list(measured)[1:], others, strict=True):
        speed, size = other.seconds / mine.seconds, other.size / mine.size
        smaller = f"{size:.3g} times smaller" if size >= 1 else f"{1 / size:.3g} times LARGER"
        if speed < _NOTABLE:
            yield f"SLOWER than {name}: it takes {1 / speed:.2f} times as long, and is {smaller}"
        else:
            yield f"{speed:.3g} times as fast as {name}, and {smaller}"
