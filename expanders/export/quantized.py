"""ONNX files in 8 bits, quantized with onnxruntime's own tools.

Two ways are tried. *static*: the ranges of all values are measured on training images, and stored.
*dynamic*: the range of each layer's input is measured in every run. Validation images and speed
decide which file is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import Tensor

from expanders.export import formats
from expanders.export.measure import accuracy_of, load_onnx, seconds_of
from expanders.export.pixels import Labelled

CALIBRATION_IMAGES = 128
_MOST_LOST = 0.01  # of the validation images' accuracy, if a file is to be kept for its speed

Way = Literal["static", "dynamic"]


@dataclass(frozen=True)
class Quantized:
    """A file in 8 bits.

    Attributes:
        content: of the file.
        before: of the file in float32 that it is made from.
        way: how it is quantized.
        lost: accuracy on validation images before, minus that after; None if there were none.
    """

    content: bytes
    before: bytes
    way: Way
    lost: float | None

    def __str__(self) -> str:
        """In short, for users."""
        if self.lost is None:
            return f"{self.way} ranges, chosen for speed alone: there are no validation images"
        change = f"{100 * abs(self.lost):.2f} points {'lost' if self.lost >= 0 else 'won'}"
        return f"{self.way} ranges, chosen on validation images: {change}"


def quantize(file: bytes, train: Tensor, val: Labelled) -> Quantized:
    """The file in 8 bits: the faster way that loses under 1 point on `val`, else the better one.

    Args:
        file: an ONNX file that takes `images`, float32.
        train: training images to measure ranges on, (N, 3, height, width) of 0 to 255; at least 1.
        val: validation images to choose by; without any, the faster file is kept.
    """
    with TemporaryDirectory() as folder, formats.quiet():
        before = Path(folder) / "float32.onnx"
        before.write_bytes(file)
        paths = {way: Path(folder) / f"{way}.onnx" for way in _WAYS}
        for way, path in paths.items():
            _WAYS[way](before, path, train)
        files = {way: load_onnx(path) for way, path in paths.items()}
        times = seconds_of(files, train[:1])
        accuracy = accuracy_of(load_onnx(before), val)
        tried: list[Quantized] = []
        for way in sorted(files, key=lambda way: min(times[way])):
            after = accuracy_of(files[way], val)
            lost = None if accuracy is None or after is None else accuracy - after
            tried.append(Quantized(paths[way].read_bytes(), file, way, lost))
            if lost is None or lost < _MOST_LOST:
                return tried[-1]
        return min(tried, key=lambda each: each.lost or 0.0)


def _static(before: Path, after: Path, images: Tensor) -> None:
    from onnxruntime import quantization  # type: ignore[import-untyped]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None].numpy()}

    # One scale a tensor: one a kernel takes a third of the space of its nine weights.
    quantization.quantize_static(
        before,
        after,
        Reader(),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _dynamic(before: Path, after: Path, images: Tensor) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(before, after, weight_type=quantization.QuantType.QUInt8)


_WAYS: dict[Way, Callable[[Path, Path, Tensor], None]] = {"static": _static, "dynamic": _dynamic}
