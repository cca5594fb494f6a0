"""Forms of VOC's XML files, learned from those parsed in full: files of a known form are read by regular expressions.

Most files of a set differ in their texts alone. A form is the tags of a file's start, or of one `<object>`, with any
plain text between them, so a file made of known forms is well-formed XML and holds what a parser finds in it.
"""

from __future__ import annotations

import re

OBJECT = ("name", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax", "difficult", "truncated")
HEAD = ("annotation/filename", "annotation/size/height", "annotation/size/width")
MOST = 16  # forms that are kept
LONGEST, TAGS = 4000, 200  # characters and tags of a form: compiling a pattern takes 40 us a character
_END = "</annotation>"
_SPACE = " \t\r\n"
_PROLOG = re.compile(r'\ufeff?(<\?xml version="1\.0"( encoding="(?i:utf-8)")?[ \t\r\n]*\?>)?[ \t\r\n]*')
_TAG = re.compile(r'<(/?)(\w+)(?: (?!xmlns=)\w+="[^"<>&]*")*>')  # of names without a namespace
_TEXT = "[^<>&\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]*"
_VALUE = "([^<>&\0-\x08\x0b-\x1f\ufffe\uffff]*)"  # XML turns the line ends of Windows into others
_APART = ("bndbox", "size", "object", "part", "attribute")  # tags with a meaning of their own beside their usual place

Fields = tuple[str, ...]


class Forms:
    """The forms of the files read so far."""

    def __init__(self) -> None:
        self._heads: list[tuple[re.Pattern[str], list[int]]] = []
        self._objects: list[tuple[re.Pattern[str], list[int]]] = []

    def read(self, data: bytes) -> tuple[Fields, list[Fields]] | None:
        """Return the texts of `HEAD`, and for each object those of `OBJECT`, "" for absent ones; None if not known."""
        parts = _parts(data)
        if parts is None or (head := _match(self._heads, parts[0])) is None:
            return None
        objects = []
        for part in parts[1:]:
            fields = _match(self._objects, part)
            if fields is None:
                return None
            objects.append(fields)
        return head, objects

    def learn(self, data: bytes) -> None:
        """Add the forms of a file that is well-formed XML."""
        for n, part in enumerate(_parts(data) or ()):
            if len(part) > LONGEST or part.count("<") > TAGS:
                continue
            known, wanted, opened = (self._objects, OBJECT, ["object"]) if n else (self._heads, HEAD, [])
            if len(known) < MOST and _match(known, part) is None:
                form = _form(part, wanted, opened)
                if form and form not in known:  # texts may be other than plain: `&amp;`
                    known.append(form)


def _parts(data: bytes) -> list[str] | None:
    """Return the text before the first object, and each object with what follows it."""
    try:
        text = data.decode().rstrip(_SPACE)
    except UnicodeDecodeError:
        return None
    start = _PROLOG.match(text)
    return text[start.end() : -len(_END)].split("<object>") if start and text.endswith(_END) else None


def _match(forms: list[tuple[re.Pattern[str], list[int]]], part: str) -> Fields | None:
    for pattern, order in forms:
        if match := pattern.fullmatch(part):
            return match.group(*order)  # type: ignore[no-any-return]
    return None


def _form(part: str, wanted: Fields, opened: list[str]) -> tuple[re.Pattern[str], list[int]] | None:
    """Return a pattern of a part and the groups of the wanted texts; None if the meaning of its tags is not plain.

    Args:
        opened: the tags around the part; changed.
    """
    is_head, depth = not opened, len(opened)
    first, *pieces = re.split("(<[^<>]*>)", part)
    if is_head and first:
        return None
    pattern, groups, seen = "" if is_head else _TEXT, dict[str, int](), set[str]()
    for n, text in enumerate(pieces[::2]):
        tag = _TAG.fullmatch(text)
        if tag is None or (not opened and (n or tag[1])) or (tag[1] and tag[2] != opened.pop()):
            return None
        value = _TEXT
        if not tag[1]:
            opened.append(tag[2])
            name, place = tag[2].lower(), "/".join(opened[depth:]).lower()
            if name in _APART and (name in seen or place not in ("bndbox", "annotation/size")):
                return None
            seen.add(name)
            if place in wanted and place not in groups:
                if pieces[2 * n + 2 : 2 * n + 3] != [f"</{tag[2]}>"]:
                    return None
                groups[place], value = len(groups) + 1, _VALUE
        pattern += re.escape(text) + value
    if opened != (["annotation"] if is_head else []) or not (is_head or "bndbox" in seen):
        return None
    return re.compile(pattern + "()"), [groups.get(name, len(groups) + 1) for name in wanted]
