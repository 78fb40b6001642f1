"""Exported files on one thread: size, working memory, and the time of one image.

    python benchmarks/export.py

VGG16-bn with random weights and statistics, wired by `rreg`. Every round runs each file once, in
turn; printed are medians, and the median ratio to `dense-onnx` of the same network in the same
round. ONNX files run in onnxruntime, the C file is compiled by the system's compiler.
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from common import machine, spread
from torch import nn

from expanders import graphs, models, sparsify
from expanders.data import Transform
from expanders.export.c.compiled import compiler
from expanders.export.network import Trained, write
from expanders.runs.checkpoint import Blueprint

FLAGS = {"c, -O3 -march=native": ("-O3", "-march=native"), "c, -O2": ("-O2",)}


def network(degree: int) -> Trained:
    """The network to export."""
    torch.manual_seed(0)
    blueprint = Blueprint("expanders.models.vgg16bn", {"num_classes": 10})
    model = models.vgg16bn()
    sparsify(model, graphs.rreg, degree, fan="live")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return Trained(model.eval(), blueprint, Transform(crop=32), 32)


def in_onnxruntime(path: Path, image: torch.Tensor) -> Callable[[], object]:
    """Runs an ONNX file on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {"images": image.numpy()}
    return lambda: session.run(None, inputs)


def in_c(path: Path, image: torch.Tensor, flags: tuple[str, ...]) -> Callable[[], object]:
    """Runs a C file, compiled with these flags."""
    library = path.with_name(f"network{''.join(flags)}.so")
    build = [compiler() or "cc", *flags, "-shared", "-fPIC", path, "-o", library, "-lm"]
    subprocess.run(build, check=True)
    predict = ctypes.CDLL(str(library)).predict
    pixels = image[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    logits = np.zeros(10, np.float32)
    arguments = [array.ctypes.data_as(ctypes.c_void_p) for array in (pixels, logits)]
    return lambda: (predict(*arguments), pixels, logits)


def main() -> None:
    """Print a row for every file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--degree", type=int, nargs="+", default=[3, 15, 30, 60])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(1), f"onnxruntime {onnxruntime.__version__}", sep="; ")
    for degree in options.degree:
        trained = network(degree)
        image = trained.images(1)
        with tempfile.TemporaryDirectory() as folder:
            runs, notes = {}, {}
            for form in ("dense-onnx", "onnx"):
                path = Path(folder) / f"{form}.onnx"
                notes[form] = f"{write(trained, form, path).size / 1e6:.2f} MB"
                runs[form] = in_onnxruntime(path, image)
            path = Path(folder) / "network.c"
            path.write_text(trained.c_source().text)
            source = trained.c_source()
            for name, flags in FLAGS.items():
                memory = f"{source.working_bytes / 1e6:.2f} MB of working memory"
                notes[name] = f"{source.read_only_bytes / 1e6:.2f} MB, {memory}"
                runs[name] = in_c(path, image, flags)
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(options.rounds):
                for name, run in runs.items():
                    start = time.perf_counter()
                    run()
                    seconds[name].append(time.perf_counter() - start)
        for name, times in seconds.items():
            ratios = [a / b for a, b in zip(seconds["dense-onnx"], times, strict=True)]
            median = 1e3 * statistics.median(times)
            print(f"degree {degree:2}  {name:22} {median:7.2f} ms  {spread(ratios)}  {notes[name]}")


if __name__ == "__main__":
    main()
