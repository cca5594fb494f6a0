"""Detect on the images that another process names, for as long as it likes: a part of `dataforge annotate --model`.

Each line of standard input is a JSON list of image files. The answer to it is a line of JSON on standard output: a list
of {"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "names": [...], "embedding": base64 of float32 or null}, in the
same order. Once the model is loaded, a first line says {"embeds": whether there are embeddings, "classes": names}. The
end of the input ends the process.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from dataforge.command import command, echo, real
from dataforge.errors import ImageError
from dataforge.images.large import decode_large
from trainers.predict import CONF, IOU, Predictor, load_detector


@command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--conf", type=real(least=0, most=1), default=CONF, show_default=True, help="Lowest score kept.")
@click.option("--device", default="auto", show_default=True)
def main(checkpoint: Path, conf: float, device: str) -> None:
    """Answer each line of JSON on standard input, a list of image files, by a line of detections."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    detector = load_detector(checkpoint, device)
    loaded = {"embeds": detector.detect_and_embed is not None, "classes": list(detector.classes)}
    print(json.dumps(loaded), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(propose(detector, [Path(file) for file in json.loads(line)], conf)), file=answers, flush=True)


def propose(detector: Predictor, files: list[Path], conf: float) -> list[dict[str, Any]]:
    """Detect on image files; one that is damaged has no boxes and no embedding."""
    pixels = {}
    for n, file in enumerate(files):
        try:
            pixels[n] = decode_large(file.read_bytes())
        except (ImageError, OSError) as error:
            echo(f"error: {file}: {error}", err=True)
    answers: list[dict[str, Any]] = [{"boxes": [], "scores": [], "names": [], "embedding": None} for _ in files]
    if not pixels:
        return answers
    images = list(pixels.values())
    embeddings: list[str | None]
    if detector.detect_and_embed is None:
        detections, embeddings = detector.detect(images, conf, IOU), [None] * len(images)
    else:
        detections, means = detector.detect_and_embed(images, conf, IOU)
        embeddings = [base64.b64encode(mean.astype("<f4")).decode() for mean in means]
    for n, (boxes, scores, labels), embedding in zip(pixels, detections, embeddings, strict=True):
        names = [detector.classes[label] for label in labels.tolist()]
        answers[n] = {"boxes": boxes.tolist(), "scores": scores.tolist(), "names": names, "embedding": embedding}
    return answers


if __name__ == "__main__":
    main()
