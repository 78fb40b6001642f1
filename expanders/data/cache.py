"""A data set's file of decoded images: opened, or made where it is missing.

Making it goes on where an earlier process was cut off. Of several processes that need the same
file, one makes it and the others wait.
"""

import errno
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from expanders.data.decoding import READ_ERRORS
from expanders.data.files import bad_root
from expanders.data.imagefile import (
    HEADER_BYTES,
    Array,
    Damaged,
    Header,
    ImageFile,
    is_whole,
    make_slot,
    number_in,
    unfinished,
)
from expanders.data.images import Images
from expanders.data.stored import Storage, StoredPixels, belongs_in_memory, gigabytes
from expanders.errors import SettingError, one_line
from expanders.files import one_at_a_time, stamp, write_atomically

log = logging.getLogger(__name__)

Parts = tuple[Images, Images]

_PART_OF_A_TASK = 64  # images that one thread decodes before it takes the next ones
_NUM_LISTED = 5  # broken images in an error's message


@dataclass(frozen=True)
class Contents:
    """What a file of decoded images is made from; known before anything is decoded.

    Attributes:
        root: of the data set, for messages.
        labels: of the training images and of the test images.
        height, width: of every image.
        origins: uint64, one per image, of both parts: changes when its encoded image does.
        decode: from an image's number to its pixels, uint8 (3, height, width); raises one of
            READ_ERRORS for an image that is broken.
        name: from an image's number to what it is called in messages.
    """

    root: Path
    labels: tuple[Sequence[int], Sequence[int]]
    height: int
    width: int
    origins: Array
    decode: Callable[[int], Array]
    name: Callable[[int], object] = str

    def header(self, key: str) -> Header:
        """Of the file that they will be in."""
        return Header(key, self.height, self.width, *map(len, self.labels))


def cached(path: Path, key: str, storage: Storage, contents: Callable[[], Contents]) -> Parts:
    """The training and test images in the file `path`, which is made if need be.

    The file counts only if it was made for the same `key`. Where images are to be held in memory,
    all of them are checked, and damaged ones are decoded again. If the file cannot be written, the
    images are decoded into memory if they may be there, and a warning says so.

    Raises SettingError, with the whole list, if images are broken; if the disk is too small, before
    anything is decoded; if the file cannot be read.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    before = stamp(path)
    file = _open(path, key)
    damaged = file.damaged() if file and belongs_in_memory(file.header.num_bytes, storage) else []
    if file is None or damaged:
        with one_at_a_time(path):
            if stamp(path) != before:  # another process has made it meanwhile
                file = _open(path, key)
            elif damaged:
                log.warning(
                    "the cache %s is damaged: %d images are decoded again", path, len(damaged)
                )
                path.replace(unfinished(path))
                file = None
            if file is None:
                made = contents()
                try:
                    _make(path, key, made)
                except OSError as error:
                    return _without_file(path, made, storage, error)
                file = _open(path, key)
    assert file is not None
    if unfinished(path).exists():  # of images that have changed and changed back
        with one_at_a_time(path):
            unfinished(path).unlink(missing_ok=True)
    if not belongs_in_memory(file.header.num_bytes, storage):
        storage = "disk"
        log.info("the images stay on disk: %s in %s", gigabytes(file.header.num_bytes), path)
    pixels = StoredPixels(file, torch.arange(file.header.num_images), storage)
    labels, count = torch.from_numpy(file.labels), file.header.num_train
    return Images(pixels[:count], labels[:count]), Images(pixels[count:], labels[count:])


def _open(path: Path, key: str) -> ImageFile | None:
    """The finished file of this key, or None if it is to be made."""
    try:
        file = ImageFile(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("the cache %s is made again: %s", path, error)
        return None
    except OSError as error:  # of the disk or of permissions; the file may be a good one
        remedy = f"cannot be read ({one_line(error)})"
        raise SettingError("dataset.cache", path, remedy) from error
    if file.header.key != key:
        log.info("the images have changed since %s was written; it is made again", path)
        return None
    return file


def _make(path: Path, key: str, made: Contents) -> None:
    """Decode what is not decoded yet, and let the finished file take its name."""
    header = made.header(key)
    labels = np.array([label for part in made.labels for label in part], dtype="<i8").tobytes()
    header = replace(header, labels_crc=zlib.crc32(labels))
    part = unfinished(path)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        todo = _go_on(descriptor, header, made.origins)
        _announce(path, descriptor, header, len(todo), made.root)

        def put(number: int, pixels: Array) -> None:
            slot = make_slot(header, pixels, int(made.origins[number]))
            _write(descriptor, slot, HEADER_BYTES + number * len(slot))

        if broken := _decode(made, todo, put):
            raise _error(made, broken, path)
        _write(descriptor, labels, header.labels_at)
        _write(descriptor, header.to_bytes(), 0)
        os.truncate(descriptor, header.num_bytes)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    _list_of_broken(path).unlink(missing_ok=True)
    log.info("decoded images are kept in %s; dataset.cache=FOLDER moves them", path)


def _go_on(descriptor: int, header: Header, origins: Array) -> list[int]:
    """The numbers of the images that are still to be decoded.

    Whole slots of an unfinished file are kept; where images were taken out of the folder
    meanwhile, those behind move up.
    """
    size = header.slot.itemsize
    found: dict[int, int] = {}
    for place in range((os.fstat(descriptor).st_size - HEADER_BYTES) // size):
        slot = os.pread(descriptor, size, HEADER_BYTES + place * size)
        if is_whole(slot):
            found[number_in(slot)] = place
    todo = []
    for number, origin in enumerate(origins.tolist()):
        place = found.get(origin, -1)
        if place < number:  # missing, or in a slot that may have been written over by now
            todo.append(number)
        elif place > number:
            slot = os.pread(descriptor, size, HEADER_BYTES + place * size)
            _write(descriptor, slot, HEADER_BYTES + number * size)
    return todo


def _announce(path: Path, descriptor: int, header: Header, num_images: int, root: Path) -> None:
    """Say how large the file will be; raises OSError if the disk is too small for it."""
    missing = max(0, header.num_bytes - os.fstat(descriptor).st_blocks * 512)
    free = shutil.disk_usage(path.parent).free
    if missing > free:
        text = f"{gigabytes(missing)} are needed for decoded images, {gigabytes(free)} are free"
        raise OSError(errno.ENOSPC, text)
    text = "decoding %d images of %s into %s: %s more on the disk, where %s are free"
    log.info(text, num_images, root, path, gigabytes(missing), gigabytes(free))


def _decode(
    made: Contents, todo: Sequence[int], put: Callable[[int, Array], object]
) -> dict[int, str]:
    """Decode images in parallel threads and `put` them; returns what is wrong with broken ones."""
    broken: dict[int, str] = {}

    def task(numbers: Sequence[int]) -> int:
        for number in numbers:
            try:
                pixels = made.decode(number)
            except READ_ERRORS as error:
                broken[number] = one_line(error)
            else:
                put(number, pixels)
        return len(numbers)

    tasks = [todo[i : i + _PART_OF_A_TASK] for i in range(0, len(todo), _PART_OF_A_TASK)]
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # PIL frees the GIL to decode
    try:
        with _progress(len(todo)) as advance:
            for count in pool.map(task, tasks):
                advance(count)
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(sorted(broken.items()))


def _error(made: Contents, broken: dict[int, str], path: Path) -> SettingError:
    """The error for images that are broken; many of them are listed in a file beside `path`."""
    lines = [f"{made.name(number)} ({reason})" for number, reason in broken.items()]
    if len(lines) == 1:
        name, reason = made.name(min(broken)), broken[min(broken)]
        return bad_root(made.root, f"{name} is not a readable image ({reason}); replace it")
    listed = ", ".join(lines[:_NUM_LISTED])
    if len(lines) > _NUM_LISTED:
        listed += f" and {len(lines) - _NUM_LISTED} more"
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        with suppress(OSError):
            write_atomically(_list_of_broken(path), lambda file: file.write(text))
            listed += f" (all in {_list_of_broken(path)})"
    remedy = f"{len(lines)} files are not readable images: {listed}; replace or remove them"
    return bad_root(made.root, remedy)


def _list_of_broken(path: Path) -> Path:
    """The file that lists the images which are broken, beside the file `path` of decoded images."""
    return path.with_name(f"{path.stem}.broken.txt")


def _without_file(path: Path, made: Contents, storage: Storage, error: OSError) -> Parts:
    """The decoded images, without a file, as `error` keeps it from being written."""
    num_bytes, reason = made.header("").num_bytes, error.strerror or one_line(error)
    if not belongs_in_memory(num_bytes, storage):
        remedy = f"cannot be written ({reason}); dataset.cache=FOLDER chooses another place"
        raise SettingError("dataset.cache", path, remedy) from error
    log.warning("images are decoded again next time: %s cannot be written (%s)", path, reason)
    pixels = np.empty((len(made.origins), 3, made.height, made.width), dtype=np.uint8)
    if broken := _decode(made, range(len(pixels)), pixels.__setitem__):
        raise _error(made, broken, path)
    train, test = (torch.tensor(part) for part in made.labels)
    count = len(train)
    return (
        Images(torch.from_numpy(pixels[:count]), train),
        Images(torch.from_numpy(pixels[count:]), test),
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, elsewhere a line a minute; yields the function that advances it."""
    console = Console(stderr=True)
    columns = ("decoding", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=total)
        done, said = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            bar.advance(task, count)
            if hidden and time.monotonic() - said >= 60:
                log.info("decoded %d of %d images", done, total)
                said = time.monotonic()

        yield advance


def _write(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of `content`; raises OSError where the disk is full."""
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written
