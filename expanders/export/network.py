"""The network to export, and what is known of it: from a run's folder or a .pt file."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expanders.data import Transform
from expanders.errors import SettingError, one_line
from expanders.export import pixels, plain
from expanders.export.c.generate import c_source
from expanders.export.c.source import Source
from expanders.runs import checkpoint, folders
from expanders.runs.settings import function_of


@dataclass(frozen=True)
class Trained:
    """A network to export.

    Attributes:
        network: in evaluation mode; takes normalised images.
        blueprint: how to build its dense twin; None if that is not known.
        transform: how its images were prepared; None if that is not known.
        size: side length of its images, in pixels.
        dataset: images of this size, if there are any.
    """

    network: nn.Module
    blueprint: checkpoint.Blueprint | None
    transform: Transform | None
    size: int
    dataset: pixels.Dataset | None = None

    def __post_init__(self) -> None:
        side = self.size
        try:
            with torch.no_grad():
                self.network(torch.zeros(1, 3, side, side))
        except Exception as error:  # whatever a model raises that does not take the images
            reason = one_line(error)
            raise SettingError("size", side, f"does not suit the network: {reason}") from None

    @property
    def name(self) -> str:
        """What the network is called."""
        if self.blueprint is None:
            return type(self.network).__name__
        return self.blueprint.name

    @property
    def arguments(self) -> dict[str, Any]:
        """What its function was given."""
        return {} if self.blueprint is None else dict(self.blueprint.arguments)

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
            "model": self.name,
            **self.arguments,
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
            remedy = "takes pixels, and it is not known how to normalise them; give a run's folder"
            raise SettingError("format", "c", f"{remedy}, or from Python a transform")
        name = f"{self.name} {self.arguments}"
        return c_source(self.network, self.size, self.transform.mean, self.transform.std, name)


def read(
    path: Path, size: int | None = None, model: str | None = None, source: str | None = None
) -> Trained:
    """The best network of a finished run, or the one in a .pt file.

    How its images were prepared comes from the config.json in the same folder, if there is one.

    Args:
        path: folder of a run, or a .pt file.
        size: side length of the images in pixels, where no config.json tells.
        model: the dotted name of the function that builds the dense network, for a network that is
            not of `expanders.models`: a file cannot make this function call code from elsewhere.
        source: likewise, of the function that reads the images.

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
    network, blueprint = _load(path, model)
    transform = dataset = None
    config = path.with_name("config.json")
    if config.exists():
        settings = folders.settings_of(path.parent, "run")
        node = settings["dataset"]["transform"]
        if node["_target_"] == "expanders.data.Transform":
            transform = Transform(**{k: v for k, v in node.items() if k != "_target_"})
            own = transform.side(settings["dataset"]["source"].get("size"))
            size = own if size is None else size
            if size is not None and own in (size, None):
                dataset = pixels.of_run(settings, transform, size, source)
    if size is None or size < 1:
        raise SettingError("size", size, "give the side length of an image in pixels")
    return Trained(network, blueprint, transform, size, dataset)


def _load(path: Path, model: str | None) -> tuple[nn.Module, checkpoint.Blueprint]:
    """The network in a checkpoint, and how to build its dense twin."""
    content = checkpoint.read(path)["model"]
    blueprint = checkpoint.Blueprint(content["target"], content["arguments"])
    if model is None and checkpoint.is_ours(blueprint.target):
        return checkpoint.load(path), blueprint
    if model is None:
        remedy = f"is of another package; to use it, say --model {blueprint.target}"
        raise SettingError("model", blueprint.target, remedy)
    function_of({"_target_": model}, "model")
    blueprint = replace(blueprint, target=model)
    return checkpoint.load(path, blueprint.build()), blueprint
