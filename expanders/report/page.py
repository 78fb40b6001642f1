"""The report as one HTML page that needs no network and runs no script, and as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from expanders.report.entries import TextTable
from expanders.report.figures import Picture

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Block:
    """A piece of a section: a heading, paragraphs, a table and pictures, in this order.

    On the page a `folded` one shows its heading only, until a reader opens it.
    """

    heading: str = ""
    paragraphs: Sequence[str] = ()
    table: TextTable | None = None
    pictures: Sequence[Picture] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    title: str
    blocks: Sequence[Block]


def pages(title: str, made: str, sections: Sequence[Section]) -> dict[str, str]:
    """The content of index.html, which holds its pictures, and of report.md, beside `figures/`.

    `made` says how and when the report was made.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    return {
        name: environment.get_template(name).render(title=title, made=made, sections=sections)
        for name in ("index.html", "report.md")
    }


def escape_markdown(text: str) -> str:
    """Text on one line, with the characters that Markdown would take for its own kept."""
    for character in "\\|*_<>`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
