"""The images of a run: its training, validation and test part, and samples for wiring methods."""

from functools import cached_property
from typing import Any

import torch

from expanders import data
from expanders.data.images import num_validation
from expanders.errors import SettingError
from expanders.runs.settings import Config, Instantiate
from expanders.seeds import stream
from expanders.wiring.draw import LabelledImages


class RunImages:
    """The images of a run; they are read when they are first needed.

    Attributes:
        source: of the images.
        transform: from stored pixels to inputs.
        crop, side: lengths that it crops to, and that inputs have, in pixels; None where that is
            not known before an image is read.
        seed: of the split, of samples, and of all that training draws.
    """

    def __init__(self, config: Config, instantiate: Instantiate) -> None:
        self.source: data.Source = instantiate(config.dataset["source"])
        self.transform: Any = instantiate(config.dataset["transform"])
        self.crop: int | None = getattr(self.transform, "crop", None)
        self.side: int | None = None
        if isinstance(self.transform, data.Transform):
            self.side = self.transform.side(config.dataset["source"].get("size"))
        self.seed = config.stream_seed("data")
        self._val_fraction = config.dataset["val_fraction"]

    @cached_property
    def parts(self) -> tuple[data.Images, data.Images, data.Images]:
        """Training, validation and test images."""
        images, test = self.source.load()
        return *data.split(images, self._val_fraction, stream(self.seed, "split")), test

    def check_sample(self, count: int) -> None:
        """Make sure, as far as that is known without reading images, that there are so many.

        Raises:
            SettingError: if there are fewer training images.
        """
        if self.source.num_train is not None:
            known = self.source.num_train()
            _check_sample(count, known - num_validation(self._val_fraction, known))

    def sample(self, count: int, device: torch.device) -> LabelledImages:
        """Training images for a wiring method, prepared as for evaluation."""
        self.check_sample(count)
        train = self.parts[0]
        _check_sample(count, len(train))
        chosen = data.sample(train, max(count, 1), stream(self.seed, "wiring")).to(device)
        pixels, labels = next(data.batches(chosen, len(chosen)))
        return self.transform.eval(pixels), labels


def _check_sample(count: int, available: int) -> None:
    if count > available:
        remedy = f"there are {available} training images; choose fewer"
        raise SettingError("graph.images", count, remedy)
