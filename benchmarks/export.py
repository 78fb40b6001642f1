"""Exported files on one thread: accuracy, size, working memory, and the time of one image.

    python benchmarks/export.py                       # VGG16-bn by degree, random weights
    python benchmarks/export.py runs/NAME runs/NAME   # what runs have trained

Every round runs each file of a network ten times in a row; printed are medians, and the median
ratio to X by the system's compiler. Accuracy is that on the test images of the run.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import onnxruntime
import torch
from common import machine, spread
from torch import nn

from expanders import graphs, models, sparsify
from expanders.data import Transform
from expanders.export.measure import Loaded, accuracy_of, load_c, load_onnx, seconds_of
from expanders.export.network import Trained, read
from expanders.export.writing import Written, write
from expanders.runs.checkpoint import Blueprint

FLAGS = {"c, -O3 -march=native": ("-O3", "-march=native"), "c, -O2": ("-O2",)}


def network(degree: int) -> Trained:
    """A network that was not trained."""
    torch.manual_seed(0)
    blueprint = Blueprint("expanders.models.vgg16bn", {"num_classes": 10})
    model = models.vgg16bn()
    sparsify(model, graphs.rreg, degree, fan="live")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return Trained(model.eval(), blueprint, Transform(crop=32), 32)


def note(written: Written) -> str:
    """What a file takes: of a C file, constants and working memory."""
    if written.source is None:
        return f"{written.size / 1e6:6.2f} MB"
    memory = f"{written.source.working_bytes / 1e6:.2f} MB of working memory"
    return f"{written.source.read_only_bytes / 1e6:6.2f} MB, {memory}"


def measure(name: str, trained: Trained, images: int) -> None:
    """Print a row for every file of a network."""
    files: dict[str, Loaded] = {}
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("dense-onnx", "onnx"):
            path = Path(folder) / f"{form}.onnx"
            notes[form] = note(write(trained, form, path))
            files[form] = load_onnx(path)
        if trained.dataset is not None:
            path = Path(folder) / "int8.onnx"
            notes["onnx, int8"] = note(write(trained, "onnx", path, "int8", images))
            files["onnx, int8"] = load_onnx(path)
        path = Path(folder) / "network.c"
        written = write(trained, "c", path)
        for form, flags in FLAGS.items():
            notes[form] = note(written)
            files[form] = load_c(path, flags)
    times = seconds_of(files, trained.images(1), seconds=6)
    test = trained.dataset.sample("test", images) if trained.dataset else None
    for form, file in files.items():
        accuracy = accuracy_of(file, test) if test else None
        right = "" if accuracy is None else f"{accuracy:7.2%}"
        ratios = [a / b for a, b in zip(times["dense-onnx"], times[form], strict=True)]
        median = 1e3 * statistics.median(times[form])
        row = f"{name}  {form:22} {right} {median:7.2f} ms  {spread(ratios)} {notes[form]}"
        print(row, flush=True)


def main() -> None:
    """Print rows for every network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--degree", type=int, nargs="+", default=[3, 15, 30, 60])
    parser.add_argument("--images", type=int, default=10_000, help="to classify, at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(1), f"onnxruntime {onnxruntime.__version__}", sep="; ")
    for run in options.runs:
        measure(run.name, read(run), options.images)
    for degree in () if options.runs else options.degree:
        measure(f"degree {degree:2}", network(degree), 0)


if __name__ == "__main__":
    main()
