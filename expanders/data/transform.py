"""Augmentation and normalisation of whole batches, on the device where the images are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from expanders.errors import SettingError


@dataclass(frozen=True)
class Transform:
    """Resize, pad with black, crop, flip, normalise: from stored pixels to a network's input.

    `mean`, `std`: per channel, in units of 0..255; by default ImageNet's. `resize`: side length
    after bilinear resizing. `pad`: black pixels added on each side. `crop`: side length of the
    output; None keeps the size that the image had before padding. `flip`: mirror left to right
    with probability 1/2. In training the crop is random, in evaluation it is the centre and nothing
    is flipped.

    Wrong values raise SettingError, naming `dataset.transform.<key>`.
    """

    mean: Sequence[float] = (123.675, 116.28, 103.53)
    std: Sequence[float] = (58.395, 57.12, 57.375)
    resize: int | None = None
    pad: int = 0
    crop: int | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        # Plain tuples, so that a transform can be compared, hashed and used as a cache's key.
        object.__setattr__(self, "mean", _channel_values("mean", self.mean))
        object.__setattr__(self, "std", _channel_values("std", self.std))
        if min(self.std) <= 0:
            raise _error("std", self.std, "must be above 0")
        for key, least in (("resize", 1), ("pad", 0), ("crop", 1)):
            value = getattr(self, key)
            if value is None and key != "pad":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise _error(key, value, f"must be an integer, at least {least}")
        if not isinstance(self.flip, bool):
            raise _error("flip", self.flip, "must be true or false")

    def side(self, stored: int | None) -> int | None:
        """The side length of the output, in pixels, for square images of the side `stored`.

        None where that is not known, and the transform does not choose a size itself.
        """
        return self.crop or self.resize or stored

    def draw(self, num_images: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Random parameters for `num_images` stored images of `height` x `width` pixels.

        Returns int64, (num_images, 3): the crop's first row, its first column, and 1 for a flip.
        Draw for the global batch and slice, and each rank of a distributed run has its share.
        `generator` lives on the CPU: the same seed gives the same crops on every device, and a
        batch needs only a few kilobytes of draws.

        Raises SettingError if the crop is larger than the padded image.
        """
        rows, columns = self._margins(height, width)
        return torch.stack(
            [
                torch.randint(rows + 1, (num_images,), generator=generator),
                torch.randint(columns + 1, (num_images,), generator=generator),
                torch.randint(2 if self.flip else 1, (num_images,), generator=generator),
            ],
            dim=1,
        )

    def train(self, pixels: Tensor, parameters: Tensor) -> Tensor:
        """Augmented network input: uint8 (N, 3, H, W) to float32 (N, 3, h, w), contiguous.

        `parameters` are a `draw` for these images, or the batch's slice of one, on any device.
        """
        height, width = self._output_size(*pixels.shape[-2:])
        # Not waiting is safe: the driver stages a copy from pageable memory before it returns.
        top, left, flip = parameters.to(pixels.device, non_blocking=True).unbind(1)
        padded = self._resized_and_padded(pixels)
        row = top[:, None] + torch.arange(height, device=pixels.device)
        step = torch.arange(width, device=pixels.device)
        column = left[:, None] + torch.where(flip[:, None] == 1, width - 1 - step, step)
        # One gather does both crop and flip: the output's pixel (i, j) is (row[i], column[j]).
        index = (row[:, :, None] * padded.shape[-1] + column[:, None, :]).flatten(1)
        index = index[:, None].expand(-1, padded.shape[1], -1)
        cropped = padded.flatten(2).gather(2, index).view(*pixels.shape[:2], height, width)
        return self._normalised(cropped)

    def eval(self, pixels: Tensor) -> Tensor:
        """Network input without augmentation: uint8 (N, 3, H, W) to float32 (N, 3, h, w)."""
        height, width = self._output_size(*pixels.shape[-2:])
        top, left = (margin // 2 for margin in self._margins(*pixels.shape[-2:]))
        padded = self._resized_and_padded(pixels)
        return self._normalised(padded[..., top : top + height, left : left + width].contiguous())

    def _output_size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is not None:
            return self.crop, self.crop
        return (height, width) if self.resize is None else (self.resize, self.resize)

    def _margins(self, height: int, width: int) -> tuple[int, int]:
        """How many rows and columns the crop leaves out of the resized and padded image."""
        out_height, out_width = self._output_size(height, width)
        if self.resize is not None:
            height = width = self.resize
        rows, columns = height + 2 * self.pad - out_height, width + 2 * self.pad - out_width
        if min(rows, columns) < 0:
            remedy = f"must not exceed the image, {height}x{width} and padded by {self.pad}"
            raise _error("crop", self.crop, remedy)
        return rows, columns

    def _resized_and_padded(self, pixels: Tensor) -> Tensor:
        if self.resize is not None:
            side = (self.resize, self.resize)
            shrinks = self.resize < max(pixels.shape[-2:])
            pixels = F.interpolate(pixels.float(), side, mode="bilinear", antialias=shrinks)
        return F.pad(pixels, (self.pad,) * 4) if self.pad else pixels

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean, scale = _constants(tuple(self.mean), tuple(self.std), pixels.device)
        return pixels.float().sub_(mean).mul_(scale)


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and 1/std as (3, 1, 1); kept, because a copy to a GPU makes the host wait."""
    mean_, std_ = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return mean_, 1 / std_


def _channel_values(key: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers):
        raise _error(key, values, "must be three numbers, one for each of red, green and blue")
    return numbers


def _error(key: str, value: object, remedy: str) -> SettingError:
    return SettingError(f"dataset.transform.{key}", value, remedy)
