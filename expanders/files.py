"""Writing files so that a reader sees the old content or the new one, never a part.

And so that of several processes that need the same file, one makes it.
"""

import contextlib
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from expanders.errors import DamagedError

Stamp = tuple[int, int]

_SEAL = "digest"  # the key of a sealed file's digest


def stamp(path: Path) -> Stamp | None:
    """What tells a file from another one that was renamed to `path` later; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class _Output(io.BufferedWriter):
    """A file to write to, which remembers the first error of the disk.

    PyTorch reports a full disk as a RuntimeError of its own.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """As files do."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The data are on the disk before the rename: after a crash the file is whole, old or new.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _Output(io.FileIO(temporary, "wb")) as file:
            try:
                write(file)
            except RuntimeError:
                if file.error is None:
                    raise
                raise file.error from None
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # as in a folder that was removed
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it.

    Only one that keeps all others from writing it may call this.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch("[0-9a-f]{8}", left.suffix[1:]):  # a name of `write_atomically`
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another process makes the file `path`, in the same way.

    What processes that were killed while they wrote it have left beside it is removed. Where no
    lock can be had (a read-only folder, a drive without locks) nobody waits.
    """
    name = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            while True:
                lock = stack.enter_context(name.open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Unless the process that had it removed it meanwhile, which leaves it to nobody.
                if name.exists() and os.path.samestat(os.fstat(lock.fileno()), name.stat()):
                    break
            stack.callback(name.unlink, missing_ok=True)
            remove_leftovers(path)
        yield


def write_text(path: Path, text: str) -> None:
    """Write `text`, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one line of JSON per row, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def digest(content: object) -> str:
    """A digest of plain containers, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str | None:
    """A digest of a file's bytes; None without a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON with a digest, by which `read_sealed` knows that nothing changed."""
    write_json(path, {**content, _SEAL: digest(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` was given.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read.
        DamagedError: if it is not what was written.
    """
    content = path.read_bytes()
    try:
        sealed = json.loads(content)
        if sealed.pop(_SEAL) == digest(sealed):
            return dict(sealed)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        pass
    raise DamagedError("file", path, "is damaged, or was changed by hand")
