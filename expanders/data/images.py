"""Labelled images, their split into parts, and iteration in batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expanders.data.stored import StoredPixels, read_ahead
from expanders.errors import SettingError


@dataclass(frozen=True)
class Images:
    """Labelled images.

    `pixels`: uint8, (N, 3, H, W), values 0..255, all on one device; or what reads them from a disk.
    `labels`: int64, (N,), values 0..num_classes-1.
    """

    pixels: Tensor | StoredPixels
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        """The images that `index` (integers or a slice) selects, in its order."""
        return Images(self.pixels[index], self.labels[index])

    def to(self, device: torch.device | str) -> "Images":
        """The same images on `device`; of those on a disk, batches will go there."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Source:
    """A data set that has not been read yet.

    `load()` returns its training and its test part. It may download, decode and cache, and raises
    SettingError where the data is missing or damaged.

    `fingerprint()` tells one content from another, cheaply, where the name of the set does not: a
    digest that stays the same where the same files are copied to. None for a set that is the same
    everywhere.

    `num_train()` is the largest number that the training part can have, known without reading an
    image. None where only reading tells.
    """

    num_classes: int
    load: Callable[[], tuple[Images, Images]]
    fingerprint: Callable[[], str] | None = None
    num_train: Callable[[], int] | None = None


def check_fraction(val_fraction: object) -> None:
    """Raise SettingError unless `val_fraction` is a number, at least 0 and below 1."""
    setting = "dataset.val_fraction"
    if isinstance(val_fraction, bool) or not isinstance(val_fraction, int | float):
        raise SettingError(setting, val_fraction, "must be a number, at least 0 and below 1")
    if not 0 <= val_fraction < 1:
        raise SettingError(setting, val_fraction, "must be at least 0 and below 1")


def num_validation(val_fraction: float, count: int) -> int:
    """How many of `count` images are for validation; halves round up."""
    return int(val_fraction * count + 0.5)


def split(images: Images, val_fraction: float, rng: np.random.Generator) -> tuple[Images, Images]:
    """Split `images` into a training and a validation part, at random and stratified by class.

    The validation part has exactly round(val_fraction * N) images (halves round up). Every class
    gives its share rounded down or up; the classes with the largest remainders round up. Both
    parts keep the order of `images`. With `val_fraction=0` the validation part is empty: a trainer
    then has nothing to select an epoch by, and keeps the last one.

    Raises SettingError for a fraction outside [0, 1), and where one of the parts would be empty.
    """
    setting = "dataset.val_fraction"
    check_fraction(val_fraction)
    num_val = num_validation(val_fraction, len(images))
    if num_val == len(images) or (val_fraction > 0 and num_val == 0):
        empty = "training" if num_val else "validation"
        remedy = f"leaves no {empty} image of {len(images)}; change it, or use 0 for no validation"
        raise SettingError(setting, val_fraction, remedy)

    labels = images.labels.cpu().numpy()
    counts = np.bincount(labels)
    quotas = counts * (num_val / len(images))
    val_counts = quotas.astype(np.int64)
    by_remainder = np.argsort(val_counts - quotas, kind="stable")
    val_counts[by_remainder[: num_val - val_counts.sum()]] += 1

    by_class, rank_in_class = _shuffled_by_class(labels, rng)
    is_val = np.zeros(len(images), dtype=bool)
    is_val[by_class] = rank_in_class < np.repeat(val_counts, counts)
    train, val = (torch.from_numpy(np.flatnonzero(part)) for part in (~is_val, is_val))
    return images[train.to(images.labels.device)], images[val.to(images.labels.device)]


def sample(images: Images, count: int, rng: np.random.Generator) -> Images:
    """`count` of `images` at random, of every class as many as of the others, where it has them.

    Classes take turns, so that every stretch of the result is as balanced as the whole.
    """
    by_class, rank_in_class = _shuffled_by_class(images.labels.cpu().numpy(), rng)
    chosen = by_class[np.argsort(rank_in_class, kind="stable")][:count]
    return images[torch.from_numpy(chosen).to(images.labels.device)]


def _shuffled_by_class(
    labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of all images, class by class, shuffled; and each one's place in its class."""
    counts = np.bincount(labels)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return by_class, np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)


def batches(
    images: Images,
    batch_size: int,
    order: Tensor | None = None,
    share: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels, labels) of one epoch, at most `batch_size` images at a time.

    Without `order`, for evaluation: every image, in sequence, without a copy. With `order`, for
    training: the images of these numbers (int64), in this order. `share` takes from the numbers of
    a batch those whose pixels this process needs; the labels are of the whole batch.

    While a batch of images on a disk is used, the next ones are read.
    """
    total = len(images) if order is None else len(order)
    places = [slice(start, start + batch_size) for start in range(0, total, batch_size)]
    chosen: list[slice | Tensor] = [place if order is None else order[place] for place in places]
    wanted = [where if isinstance(where, slice) else share(where) for where in chosen]
    device, stored = images.labels.device, images.pixels
    pixels: Iterator[Tensor]
    if isinstance(stored, Tensor):
        pixels = (stored[_on(device, where)] for where in wanted)
    else:
        pixels = read_ahead(stored[where] for where in wanted)
    for where, batch in zip(chosen, pixels, strict=True):
        yield batch, images.labels[_on(device, where)]


def _on(device: torch.device, where: slice | Tensor) -> slice | Tensor:
    return where if isinstance(where, slice) else where.to(device, non_blocking=True)
