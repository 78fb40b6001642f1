"""Decoded images in one file; several processes share what the system keeps of it in memory.

    header    4096 bytes: JSON, padded with spaces
    slots     one per image: its pixels, uint8 (3, height, width); what it was decoded from, a
              64-bit digest; the CRC-32 of both
    labels    int64, one per image

Training images come first. Each slot proves by itself that it is whole, so that a file that was
left half-way can be gone on with, and a read can be checked without reading the rest.

The file is read and not mapped into memory: a process that touches a mapped page which another
program has cut off, or which the disk does not give, is killed by the system without a word.
"""

import json
import os
import weakref
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expanders.errors import SettingError, one_line

VERSION = 2
HEADER_BYTES = 4096
_TAIL_BYTES = 12  # of a slot, behind the pixels
Array = np.ndarray[Any, np.dtype[Any]]


class Damaged(ValueError):
    """The file is not one of decoded images, or not a whole one."""


@dataclass(frozen=True)
class Header:
    """What a file of decoded images holds; `key` changes with what they were decoded from."""

    key: str
    height: int
    width: int
    num_train: int
    num_test: int
    labels_crc: int = 0
    version: int = VERSION

    @property
    def num_images(self) -> int:
        """Of both parts."""
        return self.num_train + self.num_test

    @property
    def slot(self) -> np.dtype[Any]:
        """One image with its origin and checksum."""
        pixels = ("pixels", "u1", (3, self.height, self.width))
        return np.dtype([pixels, ("origin", "<u8"), ("crc", "<u4")])

    @property
    def labels_at(self) -> int:
        """The offset of the labels in the file, in bytes."""
        return HEADER_BYTES + self.num_images * self.slot.itemsize

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return self.labels_at + 8 * self.num_images

    def to_bytes(self) -> bytes:
        """The head of the file."""
        return (
            json.dumps({"format": "expanders images"} | asdict(self))
            .encode()
            .ljust(HEADER_BYTES - 1)
            + b"\n"
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> "Header":
        """The header in the head of a file; raises Damaged if it is none of this version."""
        try:
            fields = json.loads(content)
            if fields.pop("format") != "expanders images":
                raise Damaged("it is no file of decoded images")
            if fields["version"] != VERSION:
                raise Damaged(f"it is of version {fields['version']}, not {VERSION}")
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise error if isinstance(error, Damaged) else Damaged("its head is damaged") from None


def make_slot(header: Header, pixels: Array, origin: int) -> bytes:
    """The bytes of an image's slot."""
    slot = np.zeros((), header.slot)
    slot["pixels"], slot["origin"] = pixels, origin
    slot["crc"] = zlib.crc32(slot.tobytes()[:-4])
    return slot.tobytes()


def is_whole(slot: bytes) -> bool:
    """Whether a slot's checksum is that of its content."""
    return zlib.crc32(slot[:-4]) == int.from_bytes(slot[-4:], "little")


def number_in(slot: bytes) -> int:
    """The number of the image in a slot, its `origin`, which stands before the checksum."""
    return int.from_bytes(slot[-_TAIL_BYTES:-4], "little")


def unfinished(path: Path) -> Path:
    """Where the file `path` is while it is made; the next process goes on with it."""
    return path.with_name(f".{path.name}.part")


class ImageFile:
    """A finished file of decoded images, open for reading.

    Raises OSError if it cannot be read, and Damaged if it is not whole; images are checked when
    they are first read. Threads may read at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.header = Header.from_bytes(os.pread(self._descriptor, HEADER_BYTES, 0))
        if os.fstat(self._descriptor).st_size != self.header.num_bytes:
            raise Damaged("its size is wrong")
        count = self.header.num_images
        labels = os.pread(self._descriptor, 8 * count, self.header.labels_at)
        if zlib.crc32(labels) != self.header.labels_crc:
            raise Damaged("its labels are damaged")
        self.labels = np.frombuffer(bytearray(labels), "<i8")
        self._is_checked = np.zeros(count, dtype=bool)
        if hasattr(os, "posix_fadvise"):  # reading neighbours too would waste the disk's time
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, numbers: Array, pixels: Array) -> None:
        """Copy the images of these numbers to `pixels`, uint8 (len(numbers), 3, height, width).

        Raises SettingError if one is damaged or cannot be read.
        """
        self._announce(numbers)
        for number, place in zip(numbers.tolist(), pixels, strict=True):
            if not self._read(number, place):
                with suppress(OSError):
                    self.path.replace(unfinished(self.path))
                remedy = f"image {number} in it is damaged; the next start decodes it again"
                raise SettingError("dataset.cache", self.path, remedy)

    def damaged(self) -> list[int]:
        """The numbers of the images that are damaged; reads the whole file."""
        place = np.empty((3, self.header.height, self.header.width), np.uint8)
        return [n for n in range(self.header.num_images) if not self._read(n, place)]

    def _read(self, number: int, place: Array) -> bool:
        """Copy an image to `place`, (3, height, width); returns whether it is whole."""
        tail = bytearray(_TAIL_BYTES)
        try:
            count = os.preadv(self._descriptor, [place.data, tail], self._start(number))
        except OSError as error:
            remedy = f"image {number} in it cannot be read ({one_line(error)})"
            raise SettingError("dataset.cache", self.path, remedy) from error
        if count < place.nbytes + len(tail):  # the file was cut off
            return False
        if not self._is_checked[number]:
            crc = zlib.crc32(tail[:-4], zlib.crc32(place.data))
            self._is_checked[number] = crc == int.from_bytes(tail[-4:], "little")
        return bool(self._is_checked[number])

    def _start(self, number: int) -> int:
        """The offset of an image's slot in the file, in bytes."""
        return HEADER_BYTES + number * self.header.slot.itemsize

    def _announce(self, numbers: Array) -> None:
        """Let the disk begin with all of these images before the first is waited for."""
        size = self.header.slot.itemsize
        if hasattr(os, "posix_fadvise"):
            for number in numbers.tolist():
                os.posix_fadvise(
                    self._descriptor, self._start(number), size, os.POSIX_FADV_WILLNEED
                )
