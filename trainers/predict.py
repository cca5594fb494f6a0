"""Detect on pictures and draw what was found:

python -m trainers.predict CKPT --source FILE|DIR|GLOB --out DIR
"""

from __future__ import annotations

import glob
import itertools
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from dataforge.augment import fit_matrix, warp
from dataforge.command import Command
from dataforge.decode import decode
from dataforge.draw import draw
from dataforge.errors import ConfigError, ImageError
from dataforge.image import SUFFIXES, probe
from trainers.checkpoint import load_detector
from trainers.detector import Detector
from trainers.evaluate import write_json
from trainers.process import device_of
from trainers.truth import Predictions, coco_rows

Found = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def sources(source: str, out: Path) -> tuple[Path, list[Path]]:
    """The pictures that a file, a folder (searched in depth) or a pattern names, and the folder they lie below.

    Pictures in `out` are passed over, so that a second run does not take the first one's.

    Raises:
        ConfigError: there are none.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        root, found = path, [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES]
    else:
        plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
        root = Path(*plain)
        found = [Path(name) for name in glob.glob(source, recursive=True)]  # noqa: PTH207 (a pattern may be absolute)
    apart = out.resolve()
    found = sorted(p for p in found if p.is_file() and apart not in p.resolve().parents)
    if not found:
        raise ConfigError(f"--source {source}: no pictures found; expected a file, a folder or a pattern of pictures")
    return root, found


def detect(
    detector: Detector,
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    fit: str,
    device: torch.device,
    conf: float,
    iou: float,
) -> Found:
    """Detect on one picture, fitted to the network's input as the `Loader` fits it.

    Args:
        pixels: (height, width, 3) RGB.
        size: (height, width) of the input; fit: "letterbox" or "stretch".

    Returns:
        boxes (n, 4) xyxy in pixels of the picture, clipped to it; scores (n,), best first; labels (n,).
    """
    height, width = pixels.shape[:2]
    matrix = fit_matrix(height, width, size, fit)
    images = torch.from_numpy(warp(pixels, matrix, size)).permute(2, 0, 1)[None].to(device)
    with torch.inference_mode():
        found = detector.decode(detector(images), conf=conf, iou=iou)
        found = found.to_source(torch.from_numpy(matrix[None, :2]).float().to(device))
    boxes = found.boxes[0].double().cpu().numpy().clip(0, [width, height] * 2)
    labels = found.labels[0].cpu().numpy()
    keep = (labels >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[keep], found.scores[0].double().cpu().numpy()[keep], labels[keep]


def yolo_lines(boxes: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64], size: Any) -> str:
    """Lines of `class cx cy width height confidence`, in shares of the picture's (height, width)."""
    height, width = size
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cxcywh_unit = np.concatenate([middle, side], 1) / [width, height, width, height]
    rows = zip(labels.tolist(), cxcywh_unit.tolist(), scores.tolist(), strict=True)
    return "".join(f"{c} " + " ".join(f"{v:.6f}" for v in [*box, score]) + "\n" for c, box, score in rows)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="A picture, a folder, or a pattern such as 'photos/*.jpg'.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the drawn pictures.")
@click.option("--conf", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Lowest score kept.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.45, show_default=True, help="Overlap for NMS.")
@click.option("--device", default="auto", show_default=True)
@click.option("--save-json", is_flag=True, help="Write OUT/predictions.json in COCO's result format.")
@click.option("--save-txt", is_flag=True, help="Write OUT/labels/NAME.txt: class cx cy width height confidence.")
def main(
    checkpoint: Path,
    source: str,
    out: Path,
    conf: float,
    iou: float,
    device: str,
    save_json: bool,
    save_txt: bool,
) -> None:
    """Detect with CHECKPOINT on pictures and draw boxes with names and scores."""
    detector, facts = load_detector(checkpoint)
    place = device_of(device)
    detector.to(place)
    classes, size, fit = tuple(facts["classes"]), tuple(facts["size"]), facts["fit"]
    root, files = sources(source, out)
    names = [file.relative_to(root).as_posix() for file in files]
    found: dict[int, Found] = {}
    texts: set[Path] = set()
    for i, (file, name) in enumerate(zip(files, names, strict=True)):
        try:
            data = file.read_bytes()
            pixels = decode(data, probe(data).orientation)
        except (ImageError, OSError) as error:
            click.echo(f"error: {file}: {getattr(error, 'strerror', None) or error}", err=True)
            continue
        boxes, scores, labels = found[i] = detect(detector, pixels, size, fit, place, conf, iou)
        drawn = name if Path(name).suffix.lower() in (".jpg", ".jpeg", ".png") else name + ".jpg"
        try:
            (out / drawn).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(draw(pixels, boxes, labels, classes, scores)).save(out / drawn, quality=92)
            if save_txt:
                text = out / "labels" / Path(name).with_suffix(".txt")
                if text in texts:  # a.jpg and a.png
                    text = out / "labels" / (name + ".txt")
                texts.add(text)
                text.parent.mkdir(parents=True, exist_ok=True)
                text.write_text(yolo_lines(boxes, scores, labels, pixels.shape[:2]), "utf-8")
        except OSError as error:
            raise ConfigError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
        counts = np.bincount(labels, minlength=len(classes))
        said = ", ".join(f"{n} {c}" for c, n in zip(classes, counts.tolist(), strict=True) if n) or "nothing"
        click.echo(f"{name} {pixels.shape[1]}x{pixels.shape[0]}: {said}")
    if save_json:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "predictions.json", _coco(found, names, tuple(facts["class_ids"])))
    total = sum(len(labels) for _, _, labels in found.values())
    bad = len(files) - len(found)
    click.echo(f"{len(found)} pictures, {total} boxes, {bad} files could not be read; drawn in {out}")
    if bad:
        sys.exit(1)


def _coco(found: dict[int, Found], names: list[str], class_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """COCO's rows; `image_id` is the picture's number among all, sorted by path."""
    if not found:
        return []
    boxes, scores, labels = (np.concatenate(column) for column in zip(*found.values(), strict=True))
    image = np.repeat(list(found), [len(labels) for _, _, labels in found.values()])
    return coco_rows(Predictions(image, boxes, scores, labels), np.arange(len(names)), class_ids, names)


if __name__ == "__main__":
    main()
