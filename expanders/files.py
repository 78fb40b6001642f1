"""Writing files so that a reader sees the old content or the new one, never a part.

And so that of several processes that need the same file, one makes it.
"""

import contextlib
import fcntl
import glob
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp | None:
    """What tells a file from another one that was renamed to `path` later; None without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The data are on the disk before the rename: after a crash the file is whole, old or new.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file
        raise


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
            for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
                if re.fullmatch("[0-9a-f]{8}", left.suffix[1:]):  # a name of `write_atomically`
                    left.unlink()
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
