"""From a network to a checked file."""

import copy
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from expanders.data import Images, Transform
from expanders.errors import SettingError, check_choice
from expanders.export import Dtype, Form, formats, pixels, plain
from expanders.export.c.compiled import compiler, run_c
from expanders.export.c.source import Source
from expanders.export.network import Trained
from expanders.export.quantized import CALIBRATION_IMAGES, Quantized, quantize
from expanders.files import write_atomically
from expanders.runs import checkpoint
from expanders.training.metrics import Part
from expanders.wiring.fold import without_norms

TOLERANCE = 1e-4  # of the largest output; rounding stays well below


def export_network(
    network: nn.Module,
    path: str | Path,
    *,
    size: int,
    format: Form = "onnx",
    dtype: Dtype = "float32",
    transform: Transform | None = None,
    train: Images | None = None,
    val: Images | None = None,
    blueprint: checkpoint.Blueprint | None = None,
) -> "Written":
    """Write any network, sparsified or dense, as one file for a machine without this package.

    >>> expanders.export_network(model, "network.onnx", size=32)

    The file is run and compared with the network before it takes its name: on any error a file that
    was at `path` before stays as it was.

    Args:
        network: maps normalised images (N, 3, size, size) to logits; it is not changed.
        path: of the file; its folder must exist.
        size: side length of the images, in pixels.
        format: see `python -m expanders.export --help`.
        dtype: of the weights and of what is computed; int8 for the format onnx alone.
        transform: how images were normalised. With it the file takes pixels of 0 to 255 and
            normalises them itself; without, it takes normalised images. C needs it.
        train: training images, for int8, which also needs `transform`.
        val: images to choose by, for int8; without any, the faster way to quantize is chosen.
        blueprint: how the dense network was built, for the format dense-torch.

    Raises:
        SettingError: if the network cannot be written, or not in this format.
        RuntimeError: if the file computes something else than the network.
        OSError: if the file cannot be written.
    """
    dataset = None
    if transform is not None and train is not None:
        parts: dict[Part, Images] = {
            "train": train,
            "val": train[:0] if val is None else val,
        }
        dataset = pixels.Dataset(lambda: parts, transform, size)
    network = copy.deepcopy(network).cpu().eval()
    trained = Trained(network, blueprint, transform, size, dataset)
    return write(trained, format, Path(path), dtype)


@dataclass(frozen=True)
class Written:
    """What came of an export.

    Attributes:
        size: of the file, in bytes.
        difference: the largest between its outputs and the network's.
        largest: magnitude of the network's outputs.
        source: of a C file, with the memory that it takes.
        quantized: of a file in 8 bits, how it was made.
    """

    size: int
    difference: float
    largest: float
    source: Source | None = None
    quantized: Quantized | None = None

    def lines(self) -> Iterator[str]:
        """What a user should know of the file besides its size."""
        beside = f"outputs of up to {self.largest:.3g} differ by {self.difference:.1e}"
        if self.source is not None:
            constants, values = self.source.read_only_bytes, self.source.working_bytes
            saved = 1 - values / self.source.unshared_bytes
            yield f"constants: {constants:,} bytes; working memory: {values:,} bytes"
            yield f"({saved:.0%} of the working memory is saved by using buffers again)"
        if self.quantized is None:
            yield f"checked: {beside}"
        else:
            yield f"{self.quantized}; {beside}"


def write(
    trained: Trained, form: Form, path: Path, dtype: Dtype = "float32", images: int = 1000
) -> Written:
    """Write a network in one of the formats, run the file, and compare it with the network.

    On any error a file that was at `path` before stays as it was.

    Args:
        trained: the network.
        form: see `python -m expanders.export --help`.
        path: of the file.
        dtype: int8 for the form "onnx" alone.
        images: how many validation images at most decide how to quantize.

    Raises:
        SettingError: if the network cannot be written, or not in this form, or if what it computes
            is not finite.
        RuntimeError: if the file computes something else than the network.
        OSError: if the file cannot be written.
    """
    check(form, dtype)
    if form == "dense-torch":
        trained = replace(trained, transform=None)  # plain weights come without a normalisation
    examples = [(inputs, _outputs(trained, inputs)) for inputs in map(trained.images, (1, 5))]
    source = quantized = None
    if form == "c":
        source = trained.c_source()
        content = source.text.encode()
    elif dtype == "int8":
        quantized = _quantized(trained, images)
        content = quantized.content
    else:
        content = encode(trained, form)
    difference = largest = 0.0
    with _unchecked(path, content) as written:
        for inputs, expected in examples:
            outputs = _run(trained, form, written, inputs)
            difference = max(difference, _magnitude(outputs - expected))
            largest = max(largest, _magnitude(expected))
        if quantized is None and not difference <= TOLERANCE * largest:
            raise RuntimeError(f"{path}: outputs of up to {largest:g} differ by {difference:g}")
    return Written(len(content), difference, largest, source, quantized)


def check(form: Form, dtype: Dtype) -> None:
    """Refuse what this machine or a format cannot do.

    Raises:
        SettingError: if a package or the compiler is missing, or if there is no such combination.
    """
    check_choice("format", form, Form)
    check_choice("dtype", dtype, Dtype)
    if dtype == "int8" and form != "onnx":
        raise SettingError("dtype", dtype, f"is for the format onnx, not for {form}")
    packages = ("onnx", "onnxscript", "onnxruntime") if form.endswith("onnx") else ()
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        remedy = f"needs {' and '.join(missing)}; pip install -e '.[export]'"
        raise SettingError("format", form, remedy)
    if form == "c" and compiler() is None:
        remedy = "needs a C compiler to check the file; install one, or name it in CC"
        raise SettingError("format", form, remedy)


def encode(trained: Trained, form: Form, dense: bool = False) -> bytes:
    """The content of a file in float32; with kernels as they are, or with zeros in them.

    Raises:
        SettingError: if the network cannot be written in this form.
    """
    if form == "dense-torch":
        if trained.blueprint is None:
            remedy = "needs the function that builds the dense network; give a blueprint"
            raise SettingError("format", form, remedy)
        return formats.state_file(plain.dense(trained.network), trained.blueprint.build())
    folded = without_norms(trained.network)
    if dense or form.startswith("dense"):
        network = plain.dense(folded)
    elif form == "torch":
        network = plain.gathered(folded, plain.is_smaller_gathered)
    else:
        pixels = plain.output_pixels(folded, trained.size)
        network = plain.gathered(
            folded, lambda layer: plain.is_faster_gathered(layer, pixels.get(layer, 0))
        )
    write_file = formats.torch_file if form == "torch" else formats.onnx_file
    try:
        with formats.quiet():
            program = formats.trace(trained.complete(network), trained.size, trained.size)
            return write_file(program, trained.metadata())
    except Exception as error:  # exporters fail in as many ways as there are layers
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        remedy = f"has no way to write this network ({reason}); try another format"
        raise SettingError("format", form, remedy) from error


@contextmanager
def _unchecked(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path`, to check; renamed to `path` in the end, or removed on any exception."""
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        write_atomically(beside, lambda file: file.write(content))
        yield beside
        beside.replace(path)
    except OSError as error:
        if error.filename == str(beside):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # as in a folder that was removed
            beside.unlink(missing_ok=True)


def _quantized(trained: Trained, count: int) -> Quantized:
    if trained.dataset is None:
        remedy = "is calibrated on training images, and none are known; give a run's folder"
        raise SettingError("dtype", "int8", f"{remedy}, or from Python a transform and images")
    train = trained.dataset.sample("train", CALIBRATION_IMAGES).pixels
    val = trained.dataset.sample("val", count)
    return quantize(encode(trained, "onnx"), train, val)


@torch.no_grad()
def _outputs(trained: Trained, images: Tensor) -> Tensor:
    """What a network computes of images, which must be finite to be compared with."""
    outputs: Tensor = trained.complete(trained.network)(images)
    if not outputs.isfinite().all():
        values = trained.network.state_dict().items()
        odd = [name for name, value in values if not value.isfinite().all()]
        reason = f"{odd[0]} is not finite" if odd else "its outputs are not finite"
        raise SettingError("run", trained.name, f"{reason}: there is nothing to write")
    return outputs


def _run(trained: Trained, form: Form, path: Path, images: Tensor) -> Tensor:
    if form == "c":
        return run_c(path, images)
    if form == "dense-torch":
        assert trained.blueprint is not None
        return formats.run_state(path, trained.blueprint.build(), images)
    return (formats.run_torch if form == "torch" else formats.run_onnx)(path, images)


def _magnitude(values: Tensor) -> float:
    return float(values.abs().max())
