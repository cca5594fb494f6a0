"""Detect objects in images, a video or a camera, and draw them:

python -m trainers.predict CKPT|RUN|MODEL.onnx --source FILE|DIR|GLOB|VIDEO|0|rtsp://...

In Python:

    detector = trainers.load_detector("runs/yolov2/mine")
    [(boxes, scores, labels)] = detector.predict(["photo.jpg"])
"""

from __future__ import annotations

import glob
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from dataforge.command import TROUBLE, LocalPath, command, echo, natural, real
from dataforge.errors import ConfigError, ImageError, counted
from dataforge.files import writing
from dataforge.images.draw import Pixels, draw
from dataforge.images.header import SUFFIXES
from dataforge.images.large import IN_MEMORY, decode_large
from trainers.results.calibration import differences
from trainers.results.detection import detect, detect_and_embed
from trainers.results.exported import Boxes, load_onnx
from trainers.results.predicted_files import named_rows, write_crops, write_picture, write_text, yolo_lines
from trainers.results.tiled import detect_tiled, overview
from trainers.results.tiling import Tiling, tiling_options
from trainers.results.truth import write_json
from trainers.results.video import Video, VideoFile, is_video

BATCH_SIZE = 8
CONF, IOU = 0.25, 0.45
LISTED = 8  # classes whose thresholds are printed
Picture = tuple[int, str, Pixels]  # index among all, name, (height, width, 3) RGB


@dataclass(frozen=True)
class Predictor:
    """A trained detector.

    Attributes:
        classes: the names by label; class_ids: the source's numbers of the classes.
        detect: images (H, W, 3) uint8 RGB, conf, iou -> as `predict`.
        calibration: what `trainers.evaluate --save-calibration` stored: "class_conf", "conf" and "temperature", and
            with what they were found, "iou" and "tiling"; {} for none.
        detect_and_embed: as `detect`, and an embedding (B, C) of the images; None for a model
            without a backbone, such as an exported one.
    """

    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    detect: Callable[[Sequence[Pixels], float, float], list[Boxes]]
    calibration: dict[str, Any] = field(default_factory=dict)
    detect_and_embed: Callable[..., tuple[list[Boxes], NDArray[np.float32]]] | None = None

    def predict(
        self,
        images: Sequence[Pixels | str | Path],
        conf: float | None = None,
        iou: float = IOU,
        tiling: Tiling | None = None,
    ) -> list[Boxes]:
        """Detect on a batch of images of any sizes.

        Args:
            images: (H, W, 3) uint8 RGB each, or paths of files.
            conf: the lowest score kept; None for the thresholds of the calibration, or 0.25 without one.
            iou: the overlap from which on NMS drops a box.
            tiling: detect in overlapping tiles, and merge.

        Returns:
            For each image: boxes (n, 4) float64 xyxy in its pixels, scores (n,) best first, labels (n,).

        Raises:
            ImageError: a file is damaged or no image. OSError: it cannot be read.
        """
        pixels = [image if isinstance(image, np.ndarray) else _pixels(Path(image)) for image in images]
        least = np.array(self.calibration.get("class_conf", [CONF]) if conf is None else [conf])
        lowest = float(least.min())
        if tiling is None:
            answers = self.detect(pixels, lowest, iou)
        else:
            answers = [
                detect_tiled(lambda tiles: self.detect(tiles, lowest, iou), image, tiling, iou) for image in pixels
            ]
        if len(least) == 1:
            return answers
        kept = [scores >= least[labels] for _, scores, labels in answers]
        return [
            (boxes[rows], scores[rows], labels[rows])
            for rows, (boxes, scores, labels) in zip(kept, answers, strict=True)
        ]

    def thresholds(self, iou: float = IOU, tiling: Tiling | None = None) -> str:
        """Describe the lowest scores that `predict` keeps without `conf`, and with what else they were found."""
        least = self.calibration.get("class_conf")
        if not least:
            return f"{CONF}"
        pairs = ", ".join(f"{name} {score:.3f}" for name, score in zip(self.classes, least, strict=True))
        scores = pairs if len(least) <= LISTED else f"{min(least):.3f} to {max(least):.3f}, by class"
        others = differences(self.calibration, iou, tiling)
        return f"{scores} (best F1{others and f', found at {others}'})"


def load_detector(path: str | Path, device: str = "auto") -> Predictor:
    """Load a checkpoint, the best one of a run's folder, or an exported .onnx, which does not need torch.

    Args:
        device: auto, cpu, cuda, cuda:1, ...

    Raises:
        ConfigError: the file cannot be read, or the device not be used.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        model = load_onnx(path, device)
        return Predictor(model.classes, model.class_ids, model.detect, model.facts.get("calibration", {}))
    from trainers import checkpoint
    from trainers.distributed import device_of

    detector, facts = checkpoint.load_detector(path)
    torch_device = device_of(device)
    detector.to(torch_device)
    size, fit = tuple(facts["size"]), facts["fit"]
    return Predictor(
        tuple(facts["classes"]),
        tuple(facts["class_ids"]),
        lambda pictures, conf, iou: detect(detector, pictures, size, fit, torch_device, conf, iou),
        facts.get("calibration", {}),
        (lambda pictures, conf, iou: detect_and_embed(detector, pictures, size, fit, torch_device, conf, iou))
        if hasattr(detector, "backbone")
        else None,
    )


def sources(source: str, out: Path) -> tuple[Path, list[Path]]:
    """Find the images of a file, a folder (searched recursively) or a pattern, and the folder that contains them.

    Images in `out` are skipped, so that a second run does not read those of the first.

    Raises:
        ConfigError: no image matches.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        root, files = path, [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES]
    else:
        plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
        root = Path(*plain)
        files = [Path(name) for name in glob.glob(source, recursive=True)]  # noqa: PTH207 (a pattern may be absolute)
    apart = out.resolve()
    files = sorted(p for p in files if p.is_file() and apart not in p.resolve().parents)
    if not files:
        raise ConfigError(f"--source {source}: no images found; expected an image file, a folder or a pattern")
    return root, files


@command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--source",
    required=True,
    help="An image, a folder, a pattern such as 'photos/*.jpg', a video, a camera number, or a stream's URL.",
)
@click.option(
    "--out",
    "--project",
    "out",
    default=Path("predictions"),
    show_default=True,
    type=LocalPath(),
    help="Output folder for the drawn images.",
)
@click.option(
    "--conf", type=real(least=0, most=1), help="Lowest score kept [default: the thresholds in CHECKPOINT, or 0.25]."
)
@click.option("--iou", type=real(least=0, most=1), default=IOU, show_default=True, help="Overlap for NMS.")
@click.option(
    "--batch-size",
    "--batch",
    "batch_size",
    type=natural(),
    help="Images per batch [default: 8; 1 for a camera or stream].",
)
@tiling_options
@click.option("--frames", type=natural(), help="Stop after this many frames of a video.")
@click.option("--device", default="auto", show_default=True)
@click.option("--save-video", is_flag=True, help="Write a video to OUT/NAME.mp4 instead of one image per frame.")
@click.option("--save-crops", is_flag=True, help="Write each detected object to OUT/crops/CLASS/NAME-N.jpg.")
@click.option("--save-json", is_flag=True, help="Write OUT/predictions.json in COCO's result format.")
@click.option("--save-txt", is_flag=True, help="Write OUT/labels/NAME.txt: class cx cy width height confidence.")
def main(
    checkpoint: Path,
    source: str,
    out: Path,
    conf: float | None,
    iou: float,
    batch_size: int | None,
    tiling: Tiling | None,
    frames: int | None,
    device: str,
    save_video: bool,
    save_crops: bool,
    save_json: bool,
    save_txt: bool,
) -> None:
    """Detect with CHECKPOINT on pictures or frames and draw boxes with names and scores. CHECKPOINT may be an ONNX
    model of `trainers.export`, which needs no torch.

    A camera or a stream goes on until Ctrl-C, or for --frames.
    """
    moving = is_video(source)
    if not moving and (save_video or frames):
        raise ConfigError(f"--source {source}: is no video; --save-video and --frames are for videos")
    root, files = (Path(), []) if moving else sources(source, out)  # a wrong one is told before a model is loaded
    detector = load_detector(checkpoint, device)
    classes = detector.classes
    echo(f"lowest score: {detector.thresholds(iou, tiling) if conf is None else conf}")
    if tiling:  # a batch is of tiles of one picture
        tiling, batch_size = replace(tiling, batch=batch_size or BATCH_SIZE), 1
    bad: list[Path] = []
    names: list[str] = []
    if moving:
        video = Video(source)
        pictures = _frames(video, frames)
        drawn_video = VideoFile(out / f"{video.name}.mp4", video.rate) if save_video else None
        batch_size = batch_size or (1 if video.live else BATCH_SIZE)
    else:
        drawn_video, batch_size = None, batch_size or BATCH_SIZE
        names = [file.relative_to(root).as_posix() for file in files]
        pictures = _pictures(files, names, bad)
    results: dict[int, Boxes] = {}
    texts: set[Path] = set()
    boxes_found = 0
    try:
        while batch := list(itertools.islice(pictures, batch_size)):
            answers = detector.predict([pixels for *_, pixels in batch], conf, iou, tiling)
            for (i, name, pixels), answer in zip(batch, answers, strict=True):
                boxes, scores, labels = answer
                if save_json:
                    results[i] = answer
                view, scale = overview(pixels) if pixels.size > 3 * IN_MEMORY else (pixels, np.ones(2))
                drawing = draw(view, boxes * scale[[0, 1, 0, 1]], labels, classes, scores)
                if drawn_video:
                    drawn_video.add(drawing)
                else:
                    write_picture(out, name, drawing)
                if save_crops:
                    write_crops(out, name, pixels, boxes, [classes[label] for label in labels.tolist()])
                if save_txt:
                    write_text(out, name, texts, yolo_lines(boxes, scores, labels, pixels.shape[:2]))
                counts = np.bincount(labels, minlength=len(classes))
                summary = ", ".join(f"{n} {c}" for c, n in zip(classes, counts.tolist(), strict=True) if n) or "nothing"
                echo(f"{name} {pixels.shape[1]}x{pixels.shape[0]}: {summary}")
                boxes_found += len(labels)
                names += [name] if moving else []
    except KeyboardInterrupt:
        if not moving:
            raise
    finally:
        if moving:
            video.close()
        if drawn_video:
            drawn_video.close()
    if save_json:
        with writing(out, ConfigError):
            out.mkdir(parents=True, exist_ok=True)
        rows = named_rows(results, names, classes, detector.class_ids, detector.calibration.get("temperature"))
        write_json(out / "predictions.json", rows)
    total = f"{counted(len(names) - len(bad), 'frame' if moving else 'picture')}, {counted(boxes_found, 'box')}"
    echo(total + ("" if moving else f", {counted(len(bad), 'file')} could not be read") + f"; results saved to {out}")
    if bad:
        sys.exit(TROUBLE)


def _pictures(files: list[Path], names: list[str], bad: list[Path]) -> Iterator[Picture]:
    """Yield the readable images with their indices; print an error for each of the others and add it to `bad`."""
    for i, (file, name) in enumerate(zip(files, names, strict=True)):
        try:
            yield i, name, _pixels(file)
        except (ImageError, OSError) as error:
            echo(f"error: {file}: {getattr(error, 'strerror', None) or error}", err=True)
            bad.append(file)


def _pixels(file: Path) -> Pixels:
    return decode_large(file.read_bytes())


def _frames(video: Video, limit: int | None) -> Iterator[Picture]:
    for i, pixels in enumerate(video.frames(limit)):
        yield i, f"{video.name}/{i:06d}.jpg", pixels


if __name__ == "__main__":
    main()
