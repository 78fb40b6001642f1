"""The images of a data set as an exported file takes them, to calibrate and to measure it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expanders import data
from expanders.errors import SettingError
from expanders.runs.settings import function_of
from expanders.seeds import seed_of, stream
from expanders.training.metrics import Part


class Labelled(NamedTuple):
    """Images of 0 to 255, float32 (N, 3, height, width), and their labels, int64 (N,)."""

    pixels: Tensor
    labels: Tensor


@dataclass
class Dataset:
    """Training, validation and test images, read when first needed.

    Attributes:
        load: reads the three parts.
        transform: resizes, pads and crops them; what it does besides is done by the file.
        size: side length that they then have, in pixels.
    """

    load: Callable[[], Mapping[Part, data.Images]]
    transform: data.Transform
    size: int

    @cached_property
    def parts(self) -> Mapping[Part, data.Images]:
        """All images, as they are stored."""
        return self.load()

    def sample(self, part: Part, count: int) -> Labelled:
        """At most `count` images of a part, always the same, of all classes alike.

        Raises:
            SettingError: if they have another size.
        """
        images = self.parts[part]
        if not len(images) or not count:
            return Labelled(torch.zeros(0, 3, 1, 1), images.labels[:0])
        some = data.sample(images, count, stream(0, "export"))
        pixels, labels = next(data.batches(some, len(some)))
        as_pixels = replace(self.transform, mean=(0, 0, 0), std=(1, 1, 1)).eval(pixels).round()
        height, width = as_pixels.shape[2:]
        if (height, width) != (self.size, self.size):
            raise SettingError("size", self.size, f"the run's images have {height}x{width} pixels")
        return Labelled(as_pixels, labels)


def of_run(
    config: Mapping[str, Any], transform: data.Transform, size: int, function: str | None
) -> Dataset:
    """The images of a run.

    Args:
        config: the run's settings.
        transform: the run's.
        size: side length of the network's images, in pixels.
        function: the dotted name of the one that reads them, if it is of another package.
    """
    node = config["dataset"]
    arguments = {key: value for key, value in node["source"].items() if key != "_target_"}
    target = node["source"]["_target_"]

    def load() -> Mapping[Part, data.Images]:
        name = target.removeprefix("expanders.data.")
        if function is None and name not in data.__all__:
            remedy = f"is of another package; to use it, say --source {target}"
            raise SettingError("dataset.source", target, remedy)
        source = function_of({"_target_": function or target}, "source")
        images, test = source(**arguments).load()
        rng = stream(seed_of(config, "data"), "split")
        train, val = data.split(images, node["val_fraction"], rng)
        return {"train": train, "val": val, "test": test}

    return Dataset(load, transform, size)
