"""What tables of the report are made of: entries of text. `page` decides how they look."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NONE = "–"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        lines: of text; the first is bold if `best`, and leads to `link` if there is one.
        kind: its style: name (of a row), number, short or long text, pair, or the state of a cell.
        span: the number of columns that it takes.
        anchor: what links to this place of the page end with.
    """

    lines: tuple[str, ...]
    best: bool = False
    kind: str = "number"
    span: int = 1
    link: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class TextTable:
    """A table ready to be shown; a row that starts a group has a line above it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]


def named(label: str) -> Entry:
    """The name of a row or of a group of rows."""
    return Entry((label,), kind="name")


def short(words: str) -> Entry:
    """A few words, such as a verdict."""
    return Entry((words,), kind="short")


def plain(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "text") -> TextTable:
    """A table of text, or of numbers with a name in front."""
    return TextTable(
        header,
        [[Entry((t,), kind=kind if i else "text") for i, t in enumerate(row)] for row in rows],
    )


def points(fraction: float, sign: str = "") -> str:
    """An accuracy in percent, or with a sign a difference of two, in points: `61.25`, `+1.25`."""
    return f"{100 * fraction:{sign}.2f}".replace("-", "−")
