"""Decoded images kept in one file, so that only the first run decodes."""

import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from expanders.data.images import Images
from expanders.files import one_at_a_time, stamp, write_atomically

log = logging.getLogger(__name__)

Parts = tuple[Images, Images]


def cached(path: Path, key: str, build: Callable[[], Parts]) -> Parts:
    """The training and test part from the file `path`, or from `build()`, which then fills it.

    The file counts only if it was written for the same `key` and is undamaged. If it cannot be
    written, the parts are returned all the same, and a warning says so. Of several processes one
    builds and the others wait.
    """
    before = stamp(path)
    parts = _read(path, key)
    if parts is None:
        with one_at_a_time(path):
            if stamp(path) != before:  # another process has made it meanwhile
                parts = _read(path, key)
            if parts is None:
                parts = build()
                _write(path, key, parts)
    return parts


def _read(path: Path, key: str) -> Parts | None:
    if not path.exists():
        return None
    try:
        # Not memory-mapped: on a network drive, another machine may replace the file meanwhile.
        stored = torch.load(path, weights_only=True)
        parts = Images(*stored["train"]), Images(*stored["test"])
        is_intact = stored["checksums"] == _checksums(parts)
    except Exception as error:  # whatever a damaged file makes of itself
        log.debug("reading %s: %r", path, error)
        is_intact = False
    if not is_intact:
        log.warning("the cache %s is damaged; it is made again", path)
        return None
    if stored["key"] != key:
        log.info("the images have changed since %s was written; it is made again", path)
        return None
    return parts


def _write(path: Path, key: str, parts: Parts) -> None:
    stored: dict[str, Any] = {"key": key, "checksums": _checksums(parts)}
    for name, part in zip(("train", "test"), parts, strict=True):
        stored[name] = (part.pixels, part.labels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(stored, file))
        size = path.stat().st_size / 1e6
        log.info("decoded images are kept in %s (%.0f MB); dataset.cache= moves it", path, size)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        log.warning("images are decoded again next time: %s cannot be written (%s)", path, error)


def _checksums(parts: Parts) -> list[int]:
    tensors = [tensor for part in parts for tensor in (part.pixels, part.labels)]
    return [zlib.crc32(tensor.contiguous().numpy().data) for tensor in tensors]
