"""The report as one HTML page, and as Markdown."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from expanders.report.figures import Picture
from expanders.report.tables import TextTable, escape_markdown, to_html, to_markdown

# Nothing may be fetched, by a reader's browser or by a server's, and nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff;
       max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid #111; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
thead tr, tbody tr:last-child { border-bottom: 1px solid #111; }
thead tr { border-top: 1px solid #111; }
td.pair { min-width: 9.5rem; }
td.sentence { font-size: .85rem; min-width: 16rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
th[scope=row] { font-weight: normal; white-space: nowrap; }
td.number { white-space: nowrap; }
td.text { font-size: .85rem; overflow-wrap: anywhere; }
td.missing { color: #666; font-style: italic; }
td.failed { color: #a11; max-width: 14rem; }
td.unfinished { color: #8a5a00; }
td[colspan] { text-align: center; }
tr.group { border-top: 1px solid #ddd; }
small { color: #555; }
figure { margin: 1.5rem 0; }
figcaption { font-size: .85rem; color: #333; max-width: 46rem; }
img { max-width: 100%; height: auto; }
@media print {
  body { font-size: 10pt; margin: 0; max-width: none; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""


@dataclass(frozen=True)
class Part:
    """A piece of a section: a heading, paragraphs, a table and pictures, in this order."""

    heading: str = ""
    paragraphs: Sequence[str] = ()
    table: TextTable | None = None
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    title: str
    parts: Sequence[Part]


def to_html_page(title: str, sections: Sequence[Section]) -> str:
    """One HTML page that holds its pictures, needs no network and runs no script."""
    contents = "\n".join(
        f"<li><a href='#s{index}'>{escape(section.title)}</a></li>"
        for index, section in enumerate(sections)
    )
    body = "\n".join(_html_section(index, section) for index, section in enumerate(sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<nav><ul>
{contents}
</ul></nav>
{body}
</body>
</html>
"""


def to_markdown_page(title: str, sections: Sequence[Section]) -> str:
    """The same in Markdown; pictures are in `figures/` beside it."""
    blocks = [f"# {escape_markdown(title)}"]
    for section in sections:
        blocks.append(f"## {escape_markdown(section.title)}")
        for part in section.parts:
            if part.heading:
                blocks.append(f"### {escape_markdown(part.heading)}")
            blocks += map(escape_markdown, part.paragraphs)
            if part.table:
                blocks.append(to_markdown(part.table).rstrip())
            for picture in part.pictures:
                blocks.append(f"![{picture.view}](figures/{picture.name}.png)")
                blocks.append(escape_markdown(picture.caption))
    return "\n\n".join(blocks) + "\n"


def _html_section(index: int, section: Section) -> str:
    blocks = [f"<section id='s{index}'>", f"<h2>{escape(section.title)}</h2>"]
    for part in section.parts:
        if part.heading:
            blocks.append(f"<h3>{escape(part.heading)}</h3>")
        blocks += [f"<p>{escape(text)}</p>" for text in part.paragraphs]
        if part.table:
            blocks.append(f"<div class='scroll'>{to_html(part.table)}</div>")
        blocks += map(_html_picture, part.pictures)
    return "\n".join([*blocks, "</section>"])


def _html_picture(picture: Picture) -> str:
    # In an image of its own, since inline drawings would share their identifiers.
    data = base64.b64encode(picture.svg).decode()
    alt = escape(f"{picture.view}: {picture.caption}", quote=True)
    return (
        f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
