"""JSON files of unknown origin: what is not a mapping of numbers and texts is refused by name."""

import json
import re
import stat
from pathlib import Path
from typing import Any

from expanders.errors import DamagedError
from expanders.files import read_sealed

_DEEPEST = 50  # levels of a configuration
_LONGEST = 1000  # characters of one of its texts
_LARGEST = 1e100  # of numbers, so that their squares and quotients are floats too
# Controls, halves of characters, and what XML forbids: files could not hold them.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Unreadable(Exception):
    """A file that is not what it should be; the message is for the user."""


def number(value: object) -> float | None:
    """`value` if it is a number that can be computed with, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST else None


def printable(text: str) -> str:
    """Text on one line that any file can hold: other characters as `\\xff`, `\\ud800`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def check(value: object, depth: int = 0) -> None:
    """Refuse what cannot be computed with or written down, at any level of a configuration."""
    if depth > _DEEPEST:
        raise Unreadable(f"is nested too deep: more than {_DEEPEST} levels")
    if isinstance(value, str):
        if _NOT_TEXT.search(value):
            raise Unreadable(f"holds a character that cannot be shown, in {value[:40]!a}")
        if len(value) > _LONGEST:
            raise Unreadable(f"holds a name or text of {len(value)} characters")
    elif isinstance(value, dict):
        for key, item in value.items():
            check(key, depth + 1)
            check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check(item, depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise Unreadable("holds a number beyond what can be computed with")


def mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file."""
    try:
        found = json.loads(file_content(path))
    except RecursionError:
        raise Unreadable(f"{path.name} is nested too deep") from None
    except ValueError as error:
        raise Unreadable(f"{path.name} is damaged: {printable(str(error))}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"{path.name} holds no mapping")
    return found


def checked_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file that holds nothing that `check` refuses."""
    found = mapping(path)
    try:
        check(found)
    except Unreadable as error:
        raise Unreadable(f"{path.name} {error}") from None
    return found


def check_seal(path: Path) -> None:
    """Refuse a file that should carry a digest of its content, but does not, or another one."""
    try:
        read_sealed(path)
    except DamagedError:
        raise Unreadable(f"{path.name} was changed after it was written") from None


def file_content(path: Path) -> bytes:
    """The bytes of a regular file; others, such as pipes, could have us wait forever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable(f"{path.name} is no file")
        return path.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"has no {path.name}") from None
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read: {error.strerror}") from None


def parsed(line: str) -> object:
    """What a line of JSON holds; None where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
