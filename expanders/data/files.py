"""Where encoded images come from: a folder or a zip archive read by name, or a download."""

import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from rich.console import Console
from rich.progress import wrap_file

from expanders.errors import SettingError, one_line
from expanders.files import one_at_a_time, write_atomically

log = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without a byte after which a download has failed
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

    def status(self, name: str) -> tuple[int, int]:
        """The size of a file in bytes, and a number that changes when the file is written."""


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

    def status(self, name: str) -> tuple[int, int]:
        """The size of a file in bytes, and when it was written."""
        try:
            status = (self.path / name).stat()
        except OSError:  # a link that leads nowhere; decoding names it
            return 0, 0
        return status.st_size, status.st_mtime_ns


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

    def status(self, name: str) -> tuple[int, int]:
        """The size of a file in bytes, and its checksum."""
        try:
            member = self._archive.getinfo(self._top + name)
        except KeyError:  # decoding names it
            return 0, 0
        return member.file_size, member.CRC


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
