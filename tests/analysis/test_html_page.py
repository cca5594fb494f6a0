from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.analysis.html_page import ROWS_SHOWN, Section, page
from tests import tiny

VOID = {"meta", "img", "input"}


class Read(HTMLParser):
    """What stands in a page: its tags, which must close in order, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@given(st.text(), st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_is_shown_as_it_stands_and_never_as_html(one: str, other: str) -> None:
    one, other = (re.sub("[\r\x00]", "", text).strip() for text in (one + "<script>'\"&amp;", other + "</style>"))
    html = page(one, [Section(other, one, ((one, other), [(other, one)]), [(one, tiny.encode(tiny.pixels(8, 9)))])])
    read = Read(html)
    places = ["title", "h1", "p", "th", "td", "figcaption"]
    assert {tag for tag, _ in read.tags} & {"script"} == set()
    assert [tag for tag, _ in read.tags].count("style") == 1
    assert set(places) <= {tag for tag, _ in read.tags}
    assert read.text.count(one) == 6 and read.text.count(other) == 3
    assert [attrs["alt"] for tag, attrs in read.tags if tag == "img"] == [one]


def test_it_needs_nothing_from_elsewhere() -> None:
    png, jpeg = tiny.encode(tiny.pixels(8, 9), "PNG"), tiny.encode(tiny.pixels(8, 9))
    html = page("set", [Section("pictures", pictures=[("a", png), ("b", jpeg)])])
    sources = [str(attrs["src"]) for tag, attrs in Read(html).tags if tag == "img"]
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [png, jpeg]
    assert not {tag for tag, _ in Read(html).tags} & {"script", "link", "iframe"}
    assert "://" not in html and "url(" not in html and "@import" not in html


def test_long_tables_are_folded_and_complete() -> None:
    rows = [(f"class {i}", i) for i in range(ROWS_SHOWN + 30)]
    read = Read(page("set", [Section("classes", table=(("name", "boxes"), rows)), Section("none", table=(("a",), []))]))
    assert [text for text in read.text if text.startswith("class ")] == [name for name, _ in rows]
    assert "30 more" in read.text
    assert sum(tag == "details" for tag, _ in read.tags) == 1
    right = [attrs for tag, attrs in read.tags if tag == "td" and attrs.get("class") == "number"]
    assert len(right) == len(rows)


def test_cells_link_to_sections_and_show_severities_and_the_end_of_long_paths() -> None:
    path = "/home/somebody/sets/of/2026/Annotations/photo_00001.xml"
    rows = [("error", "box-alike", path), ("fine", "other", "short/path.xml")]
    read = Read(page("set", [Section("Findings", table=(("a", "b", "c"), rows)), Section("box-alike", "text")]))
    assert [attrs["href"] for tag, attrs in read.tags if tag == "a"] == ["#s2"]
    assert {"id": "s2"} in [attrs for tag, attrs in read.tags if tag == "section"]
    assert [attrs for tag, attrs in read.tags if tag == "span"] == [{"class": "badge error"}, {"title": path}]
    assert "…/Annotations/photo_00001.xml" in read.text and "short/path.xml" in read.text


def test_the_one_script_of_long_pages_is_ours() -> None:
    rows = [("</script><script>alert(1)</script>",)] * (ROWS_SHOWN + 1)
    html = page("set", [Section("a", table=(("name",), rows))])
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and "alert" not in scripts[0] and f"script-src 'sha256-{digest}'" in html


def test_text_that_utf8_cannot_hold() -> None:
    assert "a?b" in page("a\udcffb", [])
