"""Where images come from: a folder or a zip archive read by name, a download, a decoder."""

import hashlib
import http.client
import io
import logging
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from rich.console import Console
from rich.progress import wrap_file
from torch import Tensor

from expanders.errors import SettingError
from expanders.files import one_at_a_time, write_atomically

log = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte after which a download has failed
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Pillow reads by content and knows formats that start other programs, such as EPS.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
MAX_FILE_BYTES = 1 << 28  # of one file, so that an archive of zeros does not fill the memory


class Files(Protocol):
    """Files read by their names: relative paths with "/"."""

    @property
    def path(self) -> Path:
        """The folder or the archive, for messages."""

    def names(self) -> list[str]:
        """All names, sorted, without hidden files."""

    def read(self, name: str) -> bytes:
        """The content of a file; raises KeyError or OSError if it cannot be read."""

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or written."""


class FolderFiles:
    """The files of the folder `path` that fit a pattern, such as `train/*/*`.

    `*` stands for any one name that is not hidden. So the depth is known, and links that lead back
    to a folder above do no harm.
    """

    def __init__(self, path: Path, patterns: Sequence[str]) -> None:
        self.path = path
        self._patterns = patterns

    def names(self) -> list[str]:
        """All names, sorted, without hidden files; also of links that lead nowhere."""
        return sorted(
            name for pattern in self._patterns for name in _matching(self.path, pattern.split("/"))
        )

    def read(self, name: str) -> bytes:
        """The content of a file."""
        path = self.path / name
        _check_size(path.stat().st_size)
        return path.read_bytes()

    def fingerprint(self) -> str:
        """A digest of all names, sizes and times of change."""
        return fingerprint(self.path, self.names())


def _matching(folder: Path, pattern: Sequence[str]) -> Iterator[str]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or pattern[0] not in ("*", entry.name):
                continue
            if len(pattern) == 1 and is_regular(entry):
                yield entry.name
            elif len(pattern) > 1 and os.path.isdir(entry):
                for name in _matching(folder / entry.name, pattern[1:]):
                    yield f"{entry.name}/{name}"


def is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether this is a file with content: no folder, and no pipe, which could be read for ever.

    A link that leads nowhere counts: whoever reads it learns its name.
    """
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry))
    except OSError:  # a link to itself
        return True


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")


class ZipFiles:
    """The files below the folder `top` of a zip archive; nothing is ever unpacked to disk."""

    def __init__(self, path: Path, top: str) -> None:
        self.path = path
        self._top = top + "/"

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def names(self) -> list[str]:
        """All names, sorted, without hidden files."""
        inside = [name for name in self._archive.namelist() if name.startswith(self._top)]
        names = [name.removeprefix(self._top) for name in inside if not name.endswith("/")]
        return sorted(name for name in names if not name.rpartition("/")[2].startswith("."))

    def read(self, name: str) -> bytes:
        """The content of a file; threads may read at the same time."""
        _check_size(self._archive.getinfo(self._top + name).file_size)
        return self._archive.read(self._top + name)  # never more than that size

    def fingerprint(self) -> str:
        """A digest of the archive's name, size and time of change."""
        return fingerprint(self.path.parent, [self.path.name])


READ_ERRORS = (
    OSError,  # unreadable file; also PIL's errors for what is no image or is cut off
    KeyError,  # no such name in a zip archive
    EOFError,
    SyntaxError,  # PIL: broken PNG
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


def fingerprint(folder: Path, names: Sequence[str]) -> str:
    """A digest of the names, sizes and times of change of files in `folder`, without reading."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name))
        with suppress(OSError):  # a broken link; decoding names it
            stat = (folder / name).stat()
            digest.update(f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def bad_root(root: Path, remedy: str) -> SettingError:
    """The error for data below `root` that is missing or damaged."""
    return SettingError("dataset.root", root, remedy)


def one_line(error: BaseException) -> str:
    """The message of an error, for use within another one."""
    return " ".join(str(error).split()) or type(error).__name__


def download(root: Path, name: str, url: str, md5: str) -> None:
    """Fetch `url` to the file `name` in `root`, checked, whole or not at all, if it is not there.

    Of several processes one fetches and the others wait.

    Raises SettingError if the address cannot be reached (or is silent for 30 s), if
    what came is not the file with this checksum, or if `root` cannot be written.
    """
    path = root / name

    def transfer(file: BinaryIO) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            total = int(response.headers.get("Content-Length") or 0)
            console = Console(stderr=True)
            quiet = not sys.stderr.isatty()
            with wrap_file(response, total, console=console, disable=quiet, transient=True) as body:
                while chunk := body.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() != md5:
            raise bad_root(root, f"the download of {url} came damaged; try again")

    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):
            if not path.exists():
                log.info("downloading %s to %s", url, path)
                write_atomically(path, transfer)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        remedy = f"has no {name}, and {url} cannot be downloaded ({one_line(error)}); put it there"
        raise bad_root(root, remedy) from error


def decode(files: Files, names: Sequence[str], size: int, root: Path) -> Tensor:
    """Decode images in parallel threads to one uint8 tensor, (N, 3, size, size).

    Every image becomes RGB. One of another size is cut to the centre square and resized with a
    bicubic antialiasing filter; its orientation tag is obeyed.

    Raises SettingError naming the first file that cannot be read.
    """
    pixels = torch.empty((len(names), 3, size, size), dtype=torch.uint8)
    array = pixels.numpy()

    def decode_part(part: range) -> None:
        for i in part:
            try:
                array[i] = _decode_one(files.read(names[i]), size)
            except READ_ERRORS as error:
                remedy = f"{files.path / names[i]} is not a readable image ({one_line(error)})"
                raise bad_root(root, f"{remedy}; replace it") from error

    log.info("decoding %d images of %s", len(names), files.path)
    parts = [range(start, min(start + 64, len(names))) for start in range(0, len(names), 64)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # PIL frees the GIL to decode
        for _ in pool.map(decode_part, parts):
            pass
    return pixels


def _decode_one(content: bytes, size: int) -> np.ndarray:
    """One encoded image as uint8, (3, size, size)."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if _is_deep(image):
            raise ValueError("more than 8 bits per channel")
        ImageOps.exif_transpose(image, in_place=True)
        rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb).transpose(2, 0, 1)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits per channel, which Pillow drops in silence for colors.

    It does so where the decoder's raw mode is one such as `RGB;16B`, or where the largest value of
    a PPM is above 255. `BGR;16` has 16 bits per pixel, not per channel.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return True
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if re.search(r";16[BLN]$", str(arguments[0])):
            return True
        if tile[0] in ("ppm", "ppm_plain") and int(arguments[1]) > 255:
            return True
    return False
