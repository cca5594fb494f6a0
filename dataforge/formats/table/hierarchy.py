"""The hierarchy of Open Images' classes, and boxes that count for the ancestors of their class, as in the challenge.

See https://github.com/tensorflow/models/blob/master/research/object_detection/g3doc/challenge_evaluation.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError, counted
from dataforge.formats.json_files import read_json
from dataforge.record import Finding, Record

EXPECTED = "LabelName and Subcategory, a list of the same, as in Open Images' bbox_labels_600_hierarchy.json"


class _Node(msgspec.Struct):
    label: str = msgspec.field(name="LabelName")
    below: list[_Node] = msgspec.field(name="Subcategory", default_factory=list)
    parts: list[_Node] = msgspec.field(name="Part", default_factory=list)


@dataclass(frozen=True)
class Hierarchy:
    """`ancestors`: of each class in the file, without the root, which stands for all classes."""

    path: Path
    ancestors: Mapping[str, list[str]]

    def extend(self, labels: Iterable[str], table: Path) -> dict[str, None]:
        """Return the labels of a table, and then their ancestors.

        Raises:
            FormatError: a label is not in the hierarchy.
        """
        labels = list(labels)
        unknown = [label for label in labels if label not in self.ancestors]
        if unknown:
            raise FormatError(
                f"{table}: {len(unknown)} of {len(labels)} classes are not in --hierarchy {self.path}: "
                f"{', '.join(unknown[:3])}; expected the hierarchy of this table's classes"
            )
        return dict.fromkeys([*labels, *(above for label in labels for above in self.ancestors[label])])

    def above(self, label_of: Iterable[Mapping[str, int]], count: int) -> list[list[int]]:
        """Return the ancestors of each of `count` labels, given the labels that tables have for the file's classes."""
        above: list[set[int]] = [set() for _ in range(count)]
        for labels in label_of:
            for text, label in labels.items():
                above[label] |= {labels[one] for one in self.ancestors.get(text, ()) if one in labels} - {label}
        return [sorted(labels) for labels in above]


def read_hierarchy(path: Path) -> Hierarchy:
    """Read the file. A class may be at several places; a part is no kind of its whole.

    Raises:
        FormatError: the file is no hierarchy, or a class is below itself.
    """
    ancestors: dict[str, dict[str, None]] = {}
    root = read_json(path, _Node, EXPECTED)
    nodes: list[tuple[_Node, tuple[str, ...]]] = [(root, ())]
    while nodes:
        node, above = nodes.pop()
        if node.label in above:
            raise FormatError(f"{path}: {node.label} is below itself: {' > '.join((*above, node.label))}")
        if above:
            ancestors.setdefault(node.label, {}).update(dict.fromkeys(above[1:]))
        nodes += [(child, (*above, node.label)) for child in node.below]
        nodes += [(part, (root.label,)) for part in node.parts]
    return Hierarchy(path, {label: list(above) for label, above in ancestors.items()})


def expanded(items: Iterable[Record | Finding], above: list[list[int]], path: Path) -> Iterator[Record | Finding]:
    """Yield records with each box once more for each ancestor of its class, after the boxes of the annotation.

    A box that the image has already with the ancestor's label is not added. Where a class is absent, so are those
    below it; a class that has a box is not absent.

    Args:
        above: the ancestors of each label.
        path: of the hierarchy, for the findings that count the added boxes and the contradictions.
    """
    below = [[n for n, labels in enumerate(above) if label in labels] for label in range(len(above))]
    added = contradicted = 0
    for item in items:
        if isinstance(item, Record):
            record = _with_boxes(item, above)
            added += len(record.labels) - len(item.labels)
            if item.judged is not None:
                stated = {*item.judged[:, 0].tolist()}
                absent = dict.fromkeys(sorted(stated - {*record.labels.tolist()}))
                contradicted += len(stated) - len(absent)
                absent |= dict.fromkeys(lower for label in [*absent] for lower in below[label])
                record = replace(record, judged=np.array([(label, 0) for label in absent], np.int32).reshape(-1, 2))
            yield record
        else:
            yield item
    for code, count, what, reason in (
        ("boxes-expanded", added, "box", "added: a box counts for the ancestors of its class, too"),
        ("absent-boxed", contradicted, "class", "are stated to be absent from an image with a box of them; ignored"),
    ):
        if count:
            yield Finding("noted", code, str(path), "", counted(count, what), reason, "set")


def _with_boxes(record: Record, above: list[list[int]]) -> Record:
    count = len(record.labels)
    more = [above[label] for label in record.labels.tolist()]
    if not any(more):
        return record
    index = np.append(np.arange(count), np.repeat(np.arange(count), [*map(len, more)]))
    labels = np.append(record.labels, np.concatenate(more).astype(np.int32))
    _, first = np.unique(np.column_stack([record.boxes[index], labels]), axis=0, return_index=True)
    kept: NDArray[np.int64] = np.append(np.arange(count), np.sort(first[first >= count]))
    index = index[kept]
    areas = None if record.areas is None else record.areas[index]
    return replace(record, boxes=record.boxes[index], labels=labels[kept], flags=record.flags[index], areas=areas)
