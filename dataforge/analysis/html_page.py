"""Self-contained HTML pages: text, tables and images in a single file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

ROWS_SHOWN = 20  # further rows of a longer table are collapsed
LONGEST_PATH = 48  # characters; of a longer path, the last two parts are shown

# Hides the rows and figures that do not contain the text in the box.
_SCRIPT = """
const box = document.getElementById("filter");
box.hidden = false;
box.addEventListener("input", () => {
  const text = box.value.toLowerCase();
  for (const part of document.querySelectorAll("tbody tr, figure")) {
    const words = part.textContent + " " + (part.querySelector("[title]")?.title ?? "");
    part.hidden = !words.toLowerCase().includes(text);
  }
  for (const part of document.querySelectorAll("details")) part.open = text !== "";
  for (const part of document.querySelectorAll("section:has(tbody tr, figure)"))
    part.hidden = !part.querySelector("tbody tr:not([hidden]), figure:not([hidden])");
});
"""


@dataclass(frozen=True)
class Section:
    """A part of a page. All text is shown verbatim, never as HTML.

    Attributes:
        text: a paragraph; line breaks are kept.
        table: the header and the rows, whose cells are formatted by `str`; columns of numbers are right-aligned,
            severities coloured, long paths shortened, and a cell that equals a section's heading links to it.
        pictures: (caption, encoded PNG or JPEG, or an SVG of `charts.svg`).
    """

    heading: str
    text: str = ""
    table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None
    pictures: Sequence[tuple[str, bytes]] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether each column of the table has numbers only, or "-" where there is none."""
        header, rows = self.table or ((), ())
        return [all(_is_number(row[i]) for row in rows) for i in range(len(header))]


def page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as one HTML document: no network, for light and dark, wide and narrow screens.

    Pages with a table of more than `ROWS_SHOWN` rows have a box that filters rows and pictures.
    """
    from markupsafe import Markup

    html = _template().render(
        title=title,
        sections=sections,
        anchors={section.heading: f"s{i}" for i, section in enumerate(sections, 1)},
        rows_shown=ROWS_SHOWN,
        long=any(section.table and len(section.table[1]) > ROWS_SHOWN for section in sections),
        script=Markup(_SCRIPT),
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
    )
    return html.encode("utf-8", "replace").decode()  # names may hold characters that UTF-8 cannot encode


@cache
def _template() -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": _short, "inline": _inline}
    return environment.from_string(Path(__file__).with_name("page.html").read_text("utf-8"))


def _short(cell: object) -> object:
    """Return the last two parts of a long path, and anything else unchanged."""
    if isinstance(cell, str) and len(cell) > LONGEST_PATH and re.fullmatch(r"[^\s<>]+/[^\s<>/]+/[^\s<>/]+", cell):
        return "…/" + "/".join(cell.split("/")[-2:])
    return cell


def _inline(picture: bytes, caption: str) -> Markup:
    """Return the element of a picture."""
    from markupsafe import Markup

    if picture.startswith(b"<svg"):
        label = f'<svg role="img" aria-label="{escape(caption)}"'
        return Markup(picture.decode().replace("<svg", label, 1))
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
    return Markup('<img src="{}" alt="{}">').format(source, caption)


def _is_number(cell: object) -> bool:
    return not isinstance(cell, str) or re.fullmatch(r"-|[-+]?[\d.,]+ ?%?", cell) is not None
