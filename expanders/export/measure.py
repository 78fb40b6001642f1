"""Exported files on one thread: size, the time of one image, and accuracy."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expanders.export.c.compiled import NATIVE, CNetwork
from expanders.export.pixels import Labelled

Name = TypeVar("Name", bound=str)

_ROUNDS = (3, 50)  # at least and at most
_IN_A_ROW = 10


@dataclass(frozen=True)
class Loaded:
    """A file ready to run on one thread, one image at a time.

    Attributes:
        prepare: from an image of 0 to 255, float32 (1, 3, height, width), to what `run` takes.
        run: from that to logits, (1, classes).
    """

    prepare: Callable[[Tensor], Any]
    run: Callable[[Any], NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """What one file costs.

    Attributes:
        size: of the file; of a C file, its constants. In bytes.
        seconds: median time of one image.
        accuracy: share of the images classified correctly; None where there are no images.
    """

    size: int
    seconds: float
    accuracy: float | None


def load_onnx(path: Path) -> Loaded:
    """An ONNX file in onnxruntime, on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Loaded(
        prepare=lambda image: image.numpy(),
        run=lambda image: session.run(None, {"images": image})[0],
    )


def load_c(path: Path, flags: tuple[str, ...] = NATIVE) -> Loaded:
    """A C file, compiled by the system's compiler with these flags."""
    predict = CNetwork(path, threads=1, flags=flags)
    return Loaded(
        prepare=lambda image: image.byte().contiguous(memory_format=torch.channels_last),
        run=lambda image: predict(image).numpy(),
    )


def seconds_of(
    files: Mapping[Name, Loaded], image: Tensor, seconds: float = 3
) -> dict[Name, list[float]]:
    """The median times of one image, (1, 3, height, width), one for each round.

    In a round, each file is run ten times in a row, as on a device that runs one network: a small
    file then finds its weights in the processor's caches, which a large one would have emptied.
    All rounds together take `seconds`, as far as the fewest and the most rounds allow.
    """
    inputs = {name: file.prepare(image) for name, file in files.items()}

    def median_time(name: Name) -> float:
        times = []
        for _ in range(_IN_A_ROW):
            start = time.perf_counter()
            files[name].run(inputs[name])
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def round_() -> dict[Name, float]:
        return {name: median_time(name) for name in files}

    duration = _IN_A_ROW * sum(round_().values())  # the first one allocates
    least, most = _ROUNDS
    rounds = [round_() for _ in range(max(least, min(most, int(seconds / duration))))]
    return {name: [times[name] for times in rounds] for name in files}


def accuracy_of(file: Loaded, images: Labelled) -> float | None:
    """The share of the images that a file classifies correctly; None without images."""
    if not len(images.labels):
        return None
    pairs = zip(images.pixels, images.labels.tolist(), strict=True)
    hits = [int(file.run(file.prepare(image[None])).argmax()) == label for image, label in pairs]
    return statistics.fmean(hits)


def measure(
    files: Mapping[str, Loaded], sizes: Mapping[str, int], image: Tensor, images: Labelled
) -> dict[str, Measured]:
    """Size, median time of `image`, and accuracy on `images`, of each file."""
    times = seconds_of(files, image)
    return {
        name: Measured(sizes[name], statistics.median(times[name]), accuracy_of(file, images))
        for name, file in files.items()
    }
