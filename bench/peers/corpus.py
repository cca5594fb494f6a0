"""The pictures that all are measured on: COCO-like JPEGs with boxes, and the same decoded to 320 x 320."""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

SIDE, BATCH = 320, 32
CROP_AREA, JITTER = (0.25, 1.0), 0.4  # of the workload "augment": smallest and largest crop, and each colour's strength
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # ImageNet's


class Corpus:
    """What `make` wrote. Boxes are xyxy pixels in edge coordinates.

    Attributes:
        count: how many JPEGs, and how many decoded rows.
        height, width: (count,); offsets: (count + 1,); boxes: (S, 4) pixels of the JPEG; labels: (S,).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        facts = json.loads((self.path / "corpus.json").read_text("utf-8"))
        self.count, self.origin = facts["count"], facts["origin"]
        with np.load(self.path / "table.npz") as table:
            self.height, self.width, self.offsets = table["height"], table["width"], table["offsets"]
            self.boxes, self.labels = table["boxes"], table["labels"]

    def file(self, i: int) -> Path:
        return self.path / "train" / f"{i:06d}.jpg"

    @cached_property
    def files(self) -> list[str]:
        return [str(self.file(i)) for i in range(self.count)]

    def blob(self, i: int) -> bytes:
        with open(self.files[i], "rb") as file:
            return file.read()

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) in pixels of JPEG i, and labels (n,)."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[part], self.labels[part]

    @cached_property
    def scaled(self) -> list[np.ndarray]:
        """Each JPEG's boxes once it is stretched to 320 x 320."""
        factor = SIDE / np.stack([self.width, self.height] * 2, 1)
        return [self.objects(i)[0] * factor[i].astype(np.float32) for i in range(self.count)]

    @cached_property
    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows' boxes (count, M, 4) and labels (count, M), -1 where there is none."""
        most = int(np.diff(self.offsets).max())
        boxes, labels = np.zeros((self.count, most, 4), np.float32), np.full((self.count, most), -1, np.int64)
        for i, found in enumerate(self.scaled):
            boxes[i, : len(found)], labels[i, : len(found)] = found, self.objects(i)[1]
        return boxes, labels

    def pixels(self) -> np.ndarray:
        """(count, 320, 320, 3) uint8, mapped."""
        return np.load(self.path / "rows.npy", mmap_mode="r")

    def store(self, name: str) -> Path:
        """A peer's own folder."""
        return self.path / "stores" / name


def make(path: Path, count: int, data: Path | None) -> Corpus:
    """Make a corpus, or open the one that is there.

    Args:
        data: a folder that holds `coco_mini` (COCO) and `coco128_yolo` (YOLO); None draws the pictures.
    """
    facts = {"count": count, "origin": "coco_mini and coco128" if data else "drawn", "version": 2}
    if (path / "corpus.json").is_file():
        if json.loads((path / "corpus.json").read_text("utf-8")) == facts:
            return Corpus(path)
        shutil.rmtree(path)  # ours: it holds corpus.json
    (path / "train").mkdir(parents=True, exist_ok=True)
    (path / "annotations").mkdir(exist_ok=True)
    pictures = _photographs(data) if data else _drawn(min(count, 256))
    height, width, boxes, labels = [], [], [], []
    for i in range(count):
        blob, found, classes = pictures[i % len(pictures)]
        (path / "train" / f"{i:06d}.jpg").write_bytes(blob)
        h, w = simplejpeg.decode_jpeg_header(blob)[:2]
        for column, value in zip((height, width, boxes, labels), (h, w, found, classes), strict=True):
            column.append(value)
    offsets = np.cumsum([0, *map(len, boxes)])
    flat, names = np.concatenate(boxes).astype(np.float32), np.concatenate(labels).astype(np.int64)
    np.savez(path / "table.npz", height=height, width=width, offsets=offsets, boxes=flat, labels=names)
    _write_coco(path / "annotations" / "instances_train.json", height, width, boxes, labels)
    pixels = np.lib.format.open_memmap(path / "rows.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    for i in range(count):
        decoded = simplejpeg.decode_jpeg(pictures[i % len(pictures)][0], "RGB")
        pixels[i] = cv2.resize(decoded, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    pixels.flush()
    (path / "corpus.json").write_text(json.dumps(facts), "utf-8")
    return Corpus(path)


Picture = tuple[bytes, np.ndarray, np.ndarray]  # JPEG, boxes (n, 4), labels (n,)


def _photographs(data: Path) -> list[Picture]:
    """All colour JPEGs of the two sets that have a box and are about 640 x 480."""
    from dataforge.formats import reader
    from dataforge.record import Record

    found: dict[str, Picture] = {}
    for name, root in (("coco", data / "coco_mini"), ("yolo", data / "coco128_yolo")):
        for record in reader(name)(root).records:
            if not isinstance(record, Record) or not isinstance(record.image, Path) or not record.image.is_file():
                continue
            blob = record.image.read_bytes()
            height, width, space, _ = simplejpeg.decode_jpeg_header(blob)
            low, high = record.boxes[:, :2], record.boxes[:, 2:]
            keep = ((high - low) > 1).all(1) & (low >= 0).all(1) & (high <= (width, height)).all(1)
            if space == "YCbCr" and min(height, width) >= 360 and keep.any():
                found.setdefault(record.image.name, (blob, record.boxes[keep], record.labels[keep]))
    return list(found.values())


def _drawn(images: int) -> list[Picture]:
    """Drawn pictures of about 640 x 480 with as much fine detail as a photograph, at quality 90 to 95."""
    from dataforge.images.synth import picture

    found = []
    for i in range(images):
        blob, _, objects = picture(0, i, (420, 640))
        rng = np.random.default_rng(i)
        pixels = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_COLOR)
        pixels = np.clip(pixels + rng.normal(0, 9, pixels.shape), 0, 255).astype(np.uint8)
        jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(90, 96))])[1].tobytes()
        edges = [(np.nonzero(mask.any(0))[0], np.nonzero(mask.any(1))[0]) for _, mask in objects]
        boxes = [[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in edges] or np.zeros((0, 4))
        found.append((jpeg, np.array(boxes, np.float32), np.array([label for label, _ in objects], np.int64)))
    return found


def _write_coco(file: Path, height: list, width: list, boxes: list, labels: list) -> None:
    classes = range(int(max(part.max(initial=0) for part in labels)) + 1)
    content: dict[str, list] = {"categories": [{"id": c + 1, "name": f"class {c}"} for c in classes]}
    content["images"] = [
        {"id": i, "file_name": f"{i:06d}.jpg", "height": int(h), "width": int(w)}
        for i, (h, w) in enumerate(zip(height, width, strict=True))
    ]
    content["annotations"] = []
    for i, (found, names) in enumerate(zip(boxes, labels, strict=True)):
        for (x1, y1, x2, y2), label in zip(found.tolist(), names.tolist(), strict=True):
            row = {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": label + 1, "iscrowd": 0}
            area = (x2 - x1) * (y2 - y1)
            content["annotations"].append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area})
    file.write_text(json.dumps(content), "utf-8")
