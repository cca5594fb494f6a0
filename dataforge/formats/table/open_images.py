"""The files beside the tables of boxes of Open Images (storage.googleapis.com/openimages/web/download_v7.html)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataforge.files import read_text
from dataforge.formats.splits import NO_SPLIT
from dataforge.formats.table import cells
from dataforge.formats.table.arrow_files import open_file, reading
from dataforge.formats.table.rows import TableFile

VERIFIED = ["ImageID", "LabelName", "Confidence"]


def descriptions(base: Path) -> dict[Path, dict[str, str]]:
    """Read the names of the classes: two columns, LabelName and DisplayName, with or without this header."""
    found = {}
    for place in (base, *(base / name for name in (*NO_SPLIT, "metadata")), *sorted(base.glob("*/metadata"))):
        for path in sorted([*place.glob("*class-descriptions*.csv"), *place.glob("classes.csv")]):
            with reading(path):
                rows = [row for row in csv.reader(read_text(path).splitlines()) if len(row) == 2]
            found[path] = {row[0]: row[1] for row in rows if row[0] != "LabelName"}
    return found


def read_absent(table: TableFile) -> list[Path]:
    """Set a table's `absent` from the labels that people verified of its split's images; return the files read."""
    files = [path for path in sorted(table.file.path.parent.glob("*.csv")) if _is_verified(path, table)]
    parts = []
    for path in files:
        with reading(path):
            for batch, _ in open_file(path).rows(VERIFIED, 1 << 16, []):
                image, label, confidence = (cells.texts(cells.column(batch, name)) for name in VERIFIED)
                place = pc.index_in(label, value_set=pa.array(list(table.label_of), pa.string()))
                kept = pc.and_(pc.equal(cells.floats(confidence)[0], 0), place.is_valid())
                parts.append(pa.table([image, place], ["image", "place"]).filter(kept))
    if not files:
        return []
    whole = pa.concat_tables(parts).combine_chunks()
    ids = whole["image"].combine_chunks().dictionary_encode()
    number = ids.indices.to_numpy()
    places = whole["place"].to_numpy()[np.argsort(number, kind="stable")]
    labels = np.array([*table.label_of.values()], np.int32)[places]
    bounds = np.cumsum(np.bincount(number, minlength=len(ids.dictionary)))[:-1]
    table.absent = dict(zip(ids.dictionary.to_pylist(), np.split(labels, bounds), strict=False))
    return files


def _is_verified(path: Path, table: TableFile) -> bool:
    split = re.sub(r"^(oidv\d+|challenge-\d+)-|-annotations-human-imagelabels.*$", "", path.stem)
    fiftyones = path.name == "classifications.csv"
    of_split = "-human-imagelabels" in path.name and split == table.split
    with reading(path):
        return (fiftyones or of_split) and {*VERIFIED} <= {*open_file(path).schema.names}
