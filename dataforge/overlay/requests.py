"""Edits of an image, as they are asked for and as a journal has them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from dataforge.overlay.journal import OverlayError

State = Literal["new", "edited", "done"]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Numbers = Annotated[list[float], Meta(min_length=4, max_length=4)]
Label = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Flags = Annotated[int, Meta(ge=0, le=7)]
ClassName = Annotated[str, Meta(min_length=1, max_length=200)]


class Add(Struct, tag_field="op", tag="add", forbid_unknown_fields=True):
    """A new box, or one that was deleted and comes back."""

    id: Id
    box: Numbers
    label: Label
    flags: Flags


class Set(Struct, tag_field="op", tag="set", forbid_unknown_fields=True):
    """New values of a box; what is absent stays."""

    id: Id
    box: Numbers | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    flags: Flags | UnsetType = UNSET


class Delete(Struct, tag_field="op", tag="delete", forbid_unknown_fields=True):
    id: Id


class Mark(Struct, tag_field="op", tag="state", forbid_unknown_fields=True):
    """A new state of the image."""

    state: State


Edit = Add | Set | Delete | Mark


class RefusedError(OverlayError):
    """An edit has a value that cannot be; nothing is changed."""
