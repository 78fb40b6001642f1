"""Pixels that stay in a file on disk until a batch of them is needed."""

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from expanders.data.imagefile import ImageFile
from expanders.data.memory import available_bytes
from expanders.errors import SettingError

Storage = Literal["auto", "memory", "disk"]
"""Where decoded images are while a network trains; `auto` is in memory where they fit."""

CPU = torch.device("cpu")
NUM_READERS = 8  # threads, so that a disk has several requests at a time
NUM_AHEAD = 2  # batches that are read while the present one is used


def belongs_in_memory(num_bytes: int, storage: Storage, device: torch.device = CPU) -> bool:
    """Whether images of this size in all are to be held in the memory of `device`.

    With `auto` they are where they take at most half of what is left, by all processes that
    `torchrun` started on this machine together. Raises SettingError if they must and cannot be.
    """
    available = available_bytes(device)
    needed = num_bytes * (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device == CPU else 1)
    if storage == "memory" and needed > available:
        remedy = f"{gigabytes(needed)} are needed and {gigabytes(available)} left; use auto or disk"
        raise SettingError("dataset.storage", storage, remedy)
    return storage == "memory" or (storage == "auto" and needed <= available / 2)


def gigabytes(num_bytes: float) -> str:
    """A size in words."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes < 1e11 else f"{num_bytes / 1e9:,.0f} GB"


@dataclass(frozen=True)
class StoredPixels:
    """Some of the images of a file, in place of a tensor (N, 3, H, W) of their pixels.

    Attributes:
        file: where they are.
        numbers: of the images in the file; int64, (N,), on the CPU.
        storage: where they go when they are moved to a device.
        device: where batches of them go.
    """

    file: ImageFile
    numbers: Tensor
    storage: Storage
    device: torch.device = CPU

    def __getitem__(self, index: Tensor | slice) -> "StoredPixels":
        """Those that `index` (integers or a slice) selects, in its order; nothing is read."""
        index = index.cpu() if isinstance(index, Tensor) else index
        return replace(self, numbers=self.numbers[index])

    def to(self, device: torch.device | str) -> "Tensor | StoredPixels":
        """All pixels in a tensor on `device`, or where that is too small this, still on disk."""
        device = torch.device(device)
        num_bytes = self.file.header.num_bytes
        if self.storage == "disk" or (
            device.type == "cuda" and not belongs_in_memory(num_bytes, self.storage, device)
        ):
            return replace(self, device=device)
        return replace(self, device=CPU).read().to(device)

    def read(self) -> Tensor:
        """All of them, on the CPU: uint8, (N, 3, H, W)."""
        with ThreadPoolExecutor(NUM_READERS) as pool:
            return self._begin(pool)()

    def _begin(self, pool: ThreadPoolExecutor) -> Callable[[], Tensor]:
        """Begin to read them in the threads of `pool`; returns what waits for them."""
        header = self.file.header
        shape = (len(self.numbers), 3, header.height, header.width)
        pixels = _pinned(shape) if self.device.type == "cuda" else _unshared(shape)
        numbers = np.array_split(self.numbers.numpy(), NUM_READERS)
        places = np.array_split(pixels.numpy(), NUM_READERS)
        reads = [pool.submit(self.file.read, *part) for part in zip(numbers, places, strict=True)]

        def finish() -> Tensor:
            for read in reads:
                read.result()
            return pixels.to(self.device, non_blocking=True)

        return finish


def _pinned(shape: Sequence[int]) -> Tensor:
    """Uninitialised uint8, in memory that a GPU copies from while the process goes on."""
    return torch.empty(tuple(shape), dtype=torch.uint8, pin_memory=True)


def _unshared(shape: Sequence[int]) -> Tensor:
    """Zeros, uint8, in pages of their own, which go back to the system with the tensor.

    The C library would put small things between batches, so that its memory grows with every epoch.
    """
    num_bytes = math.prod(shape)
    pages = mmap.mmap(-1, max(1, num_bytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8, count=num_bytes).view(*shape)


def read_ahead(batches: Iterable[StoredPixels]) -> Iterator[Tensor]:
    """The pixels of every batch, on its device; the next ones are read meanwhile."""
    waiting: deque[Callable[[], Tensor]] = deque()
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for batch in batches:
            waiting.append(batch._begin(pool))
            if len(waiting) > NUM_AHEAD:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
