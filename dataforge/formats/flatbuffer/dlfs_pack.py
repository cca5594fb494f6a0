"""Serialisation of columns to the bytes of a DLFS FlatBuffer; `dlfs` describes the layout and parses it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.formats.flatbuffer.dlfs import SCHEMA, Places
from dataforge.record import Boxes

LIMIT = (1 << 31) - 1  # bytes: offsets have 32 bits, and are signed for vtables
# Layout of written tables: 8-byte fields are aligned if the table is; "pad" is not a field.
_VECTOR = "<u4"  # the offset to it
_WRITTEN = {
    "Dataset": np.dtype(
        [("vtable", "<i4"), ("examples", _VECTOR), ("categories", _VECTOR), ("pad", "V4"), ("id", "<u8")]
    ),
    "Category": np.dtype(
        [
            *(("vtable", "<i4"), ("name", _VECTOR), ("examples", _VECTOR), ("id", "<u2"), ("pad", "V2")),
            *(("num_images", "<u8"), ("num_anns", "<u8")),
        ]
    ),
    "Example": np.dtype(
        [
            *(("vtable", "<i4"), ("file_name", _VECTOR), ("annotations", _VECTOR), ("image", _VECTOR)),
            *(("id", "<u8"), ("width", "<u8"), ("height", "<u8"), ("idx", "<u8")),
        ]
    ),
    "Annotation": np.dtype(
        [
            *(("vtable", "<i4"), ("bbox", "<f4", 4), ("area", "<f4"), ("id", "<u8"), ("image_id", "<u8")),
            *(("cat_id", "<u2"), ("pad", "V6")),
        ]
    ),
}
_VTABLES = {
    kind: np.array([4 + 2 * len(slots), _WRITTEN[kind].itemsize, *(_WRITTEN[kind].fields[s][1] for s in slots)], "<u2")  # type: ignore[index]
    for kind, slots in SCHEMA.items()
}
_VTABLE_AT = dict(zip(_VTABLES, accumulate([4, *(vtable.nbytes for vtable in _VTABLES.values())]), strict=False))
_ROOT = 64


def pack(
    names: Sequence[bytes],
    ids: NDArray,
    sizes: NDArray,
    images: Places,
    boxes: Boxes,
    cat_ids: NDArray,
    areas: NDArray,
    bounds: Places,
    categories: Sequence[tuple[int, bytes]],
) -> list[bytes]:
    """Return the bytes of a file up to its images, which follow as byte vectors: 4-byte length, bytes, padding to 4.

    Args:
        names, ids, sizes (n, 2), images (n,): the names, ids, (height, width), and start of the image vector of each
            example, relative to the first vector.
        boxes (m, 4), cat_ids, areas: the annotations; those of example i are at `bounds[i]` to `bounds[i + 1]`.
        categories: ids and names, in the order of the ids.

    Raises:
        FormatError: the file is longer than `LIMIT`. The message contains only the reason.
    """
    n, m, c = len(names), len(boxes), len(categories)
    counts, rows = np.diff(bounds), np.arange(n)
    image_of = np.repeat(rows, counts)
    used = [np.unique(image_of[cat_ids == number]) for number, _ in categories]
    strings, string_at = _strings([*(name for _, name in categories), *names])
    # every object follows the objects that reference it
    category_list = _ROOT + _WRITTEN["Dataset"].itemsize
    example_list = category_list + 4 + 4 * c
    category_at = _up(example_list + 4 + 4 * n) + _WRITTEN["Category"].itemsize * np.arange(c + 1)
    example_at = category_at[-1] + _WRITTEN["Example"].itemsize * np.arange(n + 1)
    lists = int(example_at[-1])
    annotation_at = _up(lists + 4 * (n + m)) + _WRITTEN["Annotation"].itemsize * np.arange(m + 1)
    used_at = annotation_at[-1] + 8 * np.append(0, np.cumsum([1 + len(idx) for idx in used])).astype(np.int64)
    string_at += int(used_at[-1])
    first_image = _up(int(used_at[-1]) + len(strings))
    if first_image > LIMIT or (n and first_image + int(images.max()) > LIMIT):
        raise FormatError(f"longer than {LIMIT} bytes, where a FlatBuffer ends")

    dataset = _made("Dataset", np.array([_ROOT]))
    dataset["categories"] = category_list - (_ROOT + 8)
    dataset["examples"] = example_list - (_ROOT + 4)
    category = _made("Category", category_at[:-1])
    category["name"] = string_at[:c] - (category_at[:-1] + 4)
    category["examples"] = used_at[:-1] + 4 - (category_at[:-1] + 8)
    category["id"] = [number for number, _ in categories]
    category["num_images"] = [len(idx) for idx in used]
    category["num_anns"] = [(cat_ids == number).sum() for number, _ in categories]
    example = _made("Example", example_at[:-1])
    list_at = rows + bounds[:-1]  # in words
    example["file_name"] = string_at[c:] - (example_at[:-1] + 4)
    example["annotations"] = lists + 4 * list_at - (example_at[:-1] + 8)
    example["image"] = first_image + images - (example_at[:-1] + 12)
    example["id"], example["idx"] = ids, rows
    example["height"], example["width"] = sizes.T
    annotation = _made("Annotation", annotation_at[:-1])
    annotation["bbox"] = boxes[:, [1, 0, 3, 2]]
    annotation["id"] = 1 + np.arange(m)
    annotation["image_id"], annotation["cat_id"], annotation["area"] = ids[image_of], cat_ids, areas
    words = np.zeros(n + m, "<u4")
    words[list_at] = counts
    places = np.arange(m) + image_of + 1
    words[places] = annotation_at[:-1] - (lists + 4 * places)
    # 4 bytes of padding and the 4-byte length form one 8-byte number
    ulongs = [np.append(len(idx) << 32, idx).astype("<u8").tobytes() for idx in used]

    head = np.array([_ROOT], "<u4").tobytes() + b"".join(vtable.tobytes() for vtable in _VTABLES.values())
    parts = [
        head.ljust(_ROOT, b"\0") + dataset.tobytes(),
        np.append(c, category_at[:-1] - (category_list + 4 + 4 * np.arange(c))).astype("<u4").tobytes(),
        np.append(n, example_at[:-1] - (example_list + 4 + 4 * rows)).astype("<u4").tobytes(),
        bytes(int(category_at[0]) - (example_list + 4 + 4 * n)),
        category.tobytes() + example.tobytes(),
        words.tobytes() + bytes(int(annotation_at[0]) - (lists + 4 * (n + m))),
        annotation.tobytes(),
        b"".join(ulongs),
        strings + bytes(first_image - (int(used_at[-1]) + len(strings))),
    ]
    assert sum(map(len, parts)) == first_image
    return parts


def _made(kind: str, places: Places) -> NDArray:
    tables = np.zeros(len(places), _WRITTEN[kind])
    tables["vtable"] = places - _VTABLE_AT[kind]
    return tables


def _strings(texts: Sequence[bytes]) -> tuple[bytes, Places]:
    """Return the concatenated strings, each with its length, a NUL and padding, and the start of each."""
    made = [len(text).to_bytes(4, "little") + text + b"\0" * (4 - len(text) % 4) for text in texts]
    return b"".join(made), np.append(0, np.cumsum([len(one) for one in made])).astype(np.int64)[:-1]


def _up(place: int) -> int:
    return place + -place % 8
