"""The network to export: from a run's folder to a checked file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expanders.data import Transform
from expanders.errors import SettingError
from expanders.export import formats, plain
from expanders.export.c.compiled import run_c
from expanders.export.c.generate import Source, c_source
from expanders.files import write_atomically
from expanders.runs import checkpoint, folders
from expanders.wiring.fold import without_norms
from expanders.wiring.layers import SparseLayer

TOLERANCE = 1e-4  # of the largest output; rounding stays well below


@dataclass(frozen=True)
class Trained:
    """A network to export.

    Attributes:
        network: in evaluation mode; takes normalised images.
        blueprint: how to build its dense twin.
        transform: how its images were prepared; None if that is not known.
        size: side length of its images, in pixels.
    """

    network: nn.Module
    blueprint: checkpoint.Blueprint
    transform: Transform | None
    size: int

    def complete(self, network: nn.Module) -> nn.Module:
        """`network` behind the normalisation, if that is known."""
        if self.transform is None:
            return network
        return plain.OnPixels(network, self.transform.mean, self.transform.std).eval()

    def images(self, count: int) -> Tensor:
        """Random images, (count, 3, size, size), as the exported network takes them."""
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, self.size, self.size)
        if self.transform is None:
            return torch.randn(shape, generator=generator)
        return torch.randint(256, shape, generator=generator).float()

    def metadata(self) -> dict[str, Any]:
        """What a user of the file needs to know, as plain containers."""
        values = "normalised" if self.transform is None else "pixels of 0 to 255"
        facts: dict[str, Any] = {
            "model": self.blueprint.target.rpartition(".")[2],
            **self.blueprint.arguments,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "images": f"float32 (batch, 3, {self.size}, {self.size}): red, green, blue; {values}",
            "logits": "float32 (batch, num_classes)",
        }
        if self.transform is not None:
            keys = ("resize", "pad", "crop", "mean", "std")
            facts["prepared"] = {key: getattr(self.transform, key) for key in keys}
        return facts

    def c_source(self) -> Source:
        """The network as C.

        Raises:
            SettingError: if it is not known how to normalise pixels, or on a layer without C.
        """
        if self.transform is None:
            remedy = (
                "takes pixels, and no config.json beside the weights tells how to normalise them"
            )
            raise SettingError("format", "c", f"{remedy}; give a run's folder")
        name = f"{self.blueprint.target.rpartition('.')[2]} {dict(self.blueprint.arguments)}"
        return c_source(self.network, self.size, self.transform.mean, self.transform.std, name)


def read(path: Path, size: int | None = None) -> Trained:
    """The best network of a finished run, or the one in a .pt file.

    How its images were prepared comes from the config.json in the same folder, if there is one.

    Args:
        path: folder of a run, or a .pt file.
        size: side length of the images in pixels, where no config.json tells.

    Raises:
        SettingError: if there is no finished run or no network at `path`, or if the size of the
            images is not known or does not suit the network.
    """
    if not path.exists():
        raise SettingError("run", path, "no such folder or file; give a run's folder")
    if path.is_dir():
        state = folders.state(path)
        if state == folders.State.NEW:
            raise SettingError("run", path, "holds no run; give the folder of a finished one")
        if state != folders.State.DONE:
            raise SettingError("run", path, f"not finished ({state}); or give a .pt file")
        path = path / "best.pt"
    network = checkpoint.load(path)
    model = checkpoint.read(path)["model"]
    blueprint = checkpoint.Blueprint(model["target"], model["arguments"])
    transform = None
    config = path.with_name("config.json")
    if config.exists():
        dataset = json.loads(config.read_text())["dataset"]
        transform = Transform(**{k: v for k, v in dataset["transform"].items() if k != "_target_"})
        if size is None:
            size = transform.crop or transform.resize or dataset["source"].get("size")
    if size is None or size < 1:
        raise SettingError("size", size, "give the side length of an image in pixels")
    try:
        network(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise SettingError("size", size, f"does not suit the network: {error}") from None
    return Trained(network, blueprint, transform, size)


@dataclass(frozen=True)
class Written:
    """What came of an export: bytes of the file, of the dense network's, and how outputs differ.

    `difference` and `largest`: of the outputs, the largest difference and magnitude.
    """

    size: int
    dense_size: int
    difference: float
    largest: float


def write(trained: Trained, form: str, path: Path) -> Written:
    """Write a network in one of the formats, run the file, and compare it with the network.

    Args:
        trained: the network.
        form: "onnx", "torch", "dense-onnx" or "dense-torch"; see `expanders.export.__main__`.
        path: of the file.

    Raises:
        RuntimeError: if the file computes something else than the network; it is then removed.
        OSError: if the file cannot be written.
    """
    if form == "dense-torch":
        trained = replace(trained, transform=None)  # plain weights come without a normalisation
    content = _encode(trained, form, form.startswith("dense"))
    dense_size = len(content)
    if form in ("onnx", "torch") and _is_sparse(trained.network):
        dense_size = len(_encode(trained, form, True))
    write_atomically(path, lambda file: file.write(content))
    difference = largest = 0.0
    reference = trained.complete(trained.network)
    for count in (1, 5):
        images = trained.images(count)
        with torch.no_grad():
            expected = reference(images)
        difference = max(difference, _magnitude(_run(trained, form, path, images) - expected))
        largest = max(largest, _magnitude(expected))
    if not difference <= TOLERANCE * largest:
        path.unlink()
        raise RuntimeError(f"{path}: outputs of up to {largest:g} differ by {difference:g}")
    return Written(len(content), dense_size, difference, largest)


def _encode(trained: Trained, form: str, dense: bool) -> bytes:
    if form == "c":
        return trained.c_source().text.encode()
    if form == "dense-torch":
        return formats.state_file(plain.dense(trained.network), trained.blueprint.build())
    folded = without_norms(trained.network)
    better = plain.is_faster_gathered if form == "onnx" else plain.is_smaller_gathered
    network = plain.dense(folded) if dense else plain.gathered(folded, better)
    program = formats.trace(trained.complete(network), trained.size, trained.size)
    encode = formats.torch_file if form == "torch" else formats.onnx_file
    return encode(program, trained.metadata())


def _run(trained: Trained, form: str, path: Path, images: Tensor) -> Tensor:
    if form == "c":
        return run_c(path, images)
    if form == "dense-torch":
        return formats.run_state(path, trained.blueprint.build(), images)
    return (formats.run_torch if form == "torch" else formats.run_onnx)(path, images)


def _is_sparse(network: nn.Module) -> bool:
    return any(isinstance(module, SparseLayer) for module in network.modules())


def _magnitude(values: Tensor) -> float:
    return float(values.abs().max())
