"""How the handlers read requests and write answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.web.openapi import LARGEST

MAX_BODY = 8 << 20  # bytes
SHOWN = ("jpeg", "png", "webp", "gif", "bmp", "avif")  # by Chromium, Firefox and Safari
T = TypeVar("T")


def answer(facts: object, status: int = 200) -> Response:
    """Return an answer in JSON that no cache keeps."""
    return Response(msgspec.json.encode(facts), status, {"Cache-Control": "no-store"}, "application/json")


def failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says what is wrong."""
    response = answer({"error": text}, status)
    response.headers.update(headers or {})
    return response


def picture(request: Request, data: bytes, tag: str, depth: str) -> Response:
    """Return an image's bytes as they are, or as PNG if browsers cannot show them; or the part that is asked for.

    Args:
        tag: changes with the bytes.
        depth: as for `images.decode.decode`.

    Raises:
        ImageError: they cannot be decoded.
    """
    info = probe(data)
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600", "Accept-Ranges": "bytes"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    kind = info.format.lower()
    if kind not in SHOWN:
        kind, data = "png", png(decode(data, info.orientation, depth=depth))
    status, part = _range(request, len(data), tag)
    if status == 416:
        return failure(416, "no such range", {"Content-Range": f"bytes */{len(data)}"})
    if status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part], status, headers, f"image/{kind}")


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels (height, width, 3), fast rather than small."""
    return cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


async def read_body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is not as expected: {error}") from None


def only(request: Request, *known: str) -> None:
    for name in request.query_params:
        if name not in known:
            raise HTTPException(400, f"{name}: no such parameter; known: {', '.join(known)}")
        _once(request, name)


def _once(request: Request, name: str) -> None:
    if (times := len(request.query_params.getlist(name))) > 1:
        raise HTTPException(400, f"{name}: is given {times} times")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 17


def image_number(request: Request, count: int) -> int:
    """Return the number of an image in the path; HTTPException 404 if there are not so many."""
    text = request.path_params["n"]
    if not (_is_number(text) and int(text) < count):
        raise HTTPException(404, f"no image {text[:20]}; there are {count}")
    return int(text)


def number(request: Request, name: str, default: int, limit: int = LARGEST, least: int = 0) -> int:
    _once(request, name)
    text = request.query_params.get(name, str(default))
    if not (_is_number(text) and least <= int(text) <= limit):
        raise HTTPException(400, f"{name}: {text!r}; expected a number from {least} to {limit}")
    return int(text)


def _range(request: Request, size: int, tag: str) -> tuple[int, slice]:
    """Return the status of an answer and the bytes that it has: one range (RFC 9110, 14.2), or all."""
    text = request.headers.get("range", "")
    first, dash, last = text.removeprefix("bytes=").partition("-")
    condition = request.headers.get("if-range")
    numbers = all(not part or (part.isascii() and part.isdigit()) for part in (first, last))
    known = text.startswith("bytes=") and dash and numbers and first + last
    if not known or condition not in (None, f'"{tag}"'):
        return 200, slice(0, size)
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    return (206, slice(start, stop)) if start < stop else (416, slice(0, 0))
