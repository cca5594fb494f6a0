"""Self-contained HTML pages: text, tables and images in a single file that needs no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROWS_SHOWN = 20  # further rows of a longer table are collapsed

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c1c1c; --faint: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --back: #161616; --ink: #e6e6e6; --faint: #a0a0a0; --line: #3a3a3a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 62rem; font: 16px/1.55 system-ui, sans-serif;
  background: var(--back); color: var(--ink); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
p { max-width: 45rem; margin: .5rem 0; white-space: pre-line; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--faint); white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 4ch; }
.number { text-align: right; white-space: nowrap; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--faint); font-size: .875rem; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
figcaption { font-size: .8125rem; color: var(--faint); padding-top: .35rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page. All text is shown verbatim, never as HTML.

    Attributes:
        text: a paragraph; line breaks are kept.
        table: the header and the rows, whose cells are formatted by `str`; columns of numbers are right-aligned.
        pictures: (caption, encoded PNG or JPEG).
    """

    heading: str
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None
    pictures: Sequence[tuple[str, bytes]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as one HTML document: no network, no scripts, for light and dark, wide and narrow screens."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
        + "".join(map(_section, sections))
        + "</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{_text(section.heading)}</h2>\n"]
    if section.text:
        parts.append(f"<p>{_text(section.text)}</p>\n")
    if section.table:
        header, rows = section.table
        numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
        parts.append(_table(header, rows[:ROWS_SHOWN], numeric))
        if rest := rows[ROWS_SHOWN:]:
            parts.append(f"<details><summary>{len(rest)} more</summary>\n{_table(header, rest, numeric)}</details>\n")
    if section.pictures:
        parts.append('<div class="pictures">\n')
        for caption, image in section.pictures:
            kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
            source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
            parts.append(f'<figure><img src="{source}" alt="{_text(caption)}">')
            parts.append(f"<figcaption>{_text(caption)}</figcaption></figure>\n")
        parts.append("</div>\n")
    return "".join([*parts, "</section>\n"])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[bool]) -> str:
    def line(tag: str, cells: Sequence[object]) -> str:
        kinds = [' class="number"' if right else "" for right in numeric]
        shown = [f"<{tag}{kind}>{_text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)]
        return f"<tr>{''.join(shown)}</tr>\n"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n<thead>{line("th", header)}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _is_number(cell: object) -> bool:
    return not isinstance(cell, str) or re.fullmatch(r"[-+]?[\d.,]+ ?%?", cell) is not None


def _text(value: object) -> str:
    """Escape text for elements and quoted attributes; characters that UTF-8 cannot encode become question marks."""
    return escape(str(value)).encode("utf-8", "replace").decode()
