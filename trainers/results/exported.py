"""Legend: B images, h x w pixels, K detections.

Models written by `trainers.export`, and detection with them. torch is not imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.augment.executors.cpu import warp
from dataforge.augment.move import corners_of, hull, project
from dataforge.augment.operations.geometry import fit_matrix
from dataforge.errors import ConfigError
from dataforge.images.draw import Pixels
from dataforge.shards.reader import Shards
from dataforge.threads import cores
from trainers.results.truth import Predictions

KEY = "dataforge"  # of the metadata entry
FORMAT = 1
Boxes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]  # boxes (n, 4) xyxy, scores, labels
Run = Callable[[Pixels, float, float, int], Sequence[NDArray[Any]]]


class Exported:
    """Exported model with its metadata.

    Args:
        facts: the file's metadata.
        run: maps images (B, h, w, 3) uint8 RGB, conf, iou and top to boxes (B, K, 4), scores (B, K) and labels (B, K),
            as `trainers.exporting.graph.Graph.forward` does.
    """

    def __init__(self, facts: dict[str, Any], run: Run) -> None:
        self.facts, self.run = facts, run
        self.classes, self.class_ids = tuple(facts["classes"]), tuple(facts["class_ids"])

    def detect(self, pictures: Sequence[Pixels], conf: float, iou: float, top: int | None = None) -> list[Boxes]:
        """Detect on images.

        Args:
            pictures: (height, width, 3) RGB each, of any sizes.
            conf: the minimum score; iou: the overlap for NMS; top: the maximum number of detections per image, up to
                `facts["slots"]`; None for the model's default.

        Returns:
            For each image: boxes (n, 4) xyxy in its pixels, clipped to it; scores (n,), best first; labels (n,).
        """
        if self.facts["input"] == "any":
            return list(self._raw(pictures, conf, iou, top))
        fitted, matrices = zip(*map(self.fitted, pictures), strict=True)
        detections = []
        answers = self._raw(fitted, conf, iou, top)
        for pixels, matrix, (boxes, scores, labels) in zip(pictures, matrices, answers, strict=True):
            home = (boxes - matrix[[0, 1, 0, 1], 2]) / matrix[[0, 1, 0, 1], [0, 1, 0, 1]]
            home = home.clip(0, [pixels.shape[1], pixels.shape[0]] * 2)
            keep = (home[:, 2:] > home[:, :2]).all(1)
            detections.append((home[keep], scores[keep], labels[keep]))
        return detections

    def fitted(self, pixels: Pixels) -> tuple[Pixels, NDArray[np.float64]]:
        """Fit an image to a model of fixed size; also return the matrix (3, 3) from its pixels to the model's."""
        size: tuple[int, int] = tuple(self.facts["input"])
        matrix = fit_matrix(pixels.shape[0], pixels.shape[1], size, self.facts["fit"])
        return warp(pixels, matrix, size), matrix

    def _raw(self, pictures: Sequence[Pixels], conf: float, iou: float, top: int | None) -> Iterator[Boxes]:
        """Yield the graph's detections; consecutive images of one size are one batch."""
        top = self.facts["top"] if top is None else top
        for _, group in groupby(pictures, key=lambda pixels: pixels.shape):
            same = list(group)
            step = len(same) if self.facts["batch"] == "any" else int(self.facts["batch"])
            for first in range(0, len(same), step):
                part = same[first : first + step]
                images = np.stack(part + [part[-1]] * (step - len(part) if self.facts["batch"] != "any" else 0))
                for boxes, scores, labels in list(zip(*self.run(images, conf, iou, top), strict=True))[: len(part)]:
                    keep = labels >= 0
                    yield boxes[keep].astype(np.float64), scores[keep].astype(np.float64), labels[keep]


def checksum(facts: dict[str, Any]) -> str:
    """Return the checksum of all metadata that detections depend on, to detect a changed name."""
    stated = {key: facts[key] for key in sorted(facts) if key not in ("certificate", "checksum")}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def check(path: Path, text: str | None) -> dict[str, Any]:
    """Read and check a file's metadata.

    Raises:
        ConfigError: the file was not written by `trainers.export`, was written by a later version, or was modified.
    """
    try:
        facts = json.loads(text or "")
        version = facts["format"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: not made by `python -m trainers.export`: its metadata has no entry {KEY!r} that can be read"
        ) from None
    if version != FORMAT:
        raise ConfigError(f"{path}: its format is {version}; expected {FORMAT}; export the checkpoint again")
    if facts.get("checksum") != checksum(facts):
        names = ", ".join(map(str, facts.get("classes", ())))
        raise ConfigError(
            f"{path}: its metadata was altered after the export (classes now: {names}); expected what its checksum "
            "states; export the checkpoint again"
        )
    return facts


def load_onnx(path: Path, device: str = "auto") -> Exported:
    """Load an ONNX model written by `trainers.export`.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where onnxruntime supports it.

    Raises:
        ConfigError: the file does not exist, is not such a model or was modified, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: needs onnxruntime; pip install 'dataforge-detection[export]'") from None
    if not path.is_file():
        raise ConfigError(f"{path}: no such model")
    known = onnxruntime.get_available_providers()
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in known:
        providers.insert(0, "CUDAExecutionProvider")
    elif device not in ("auto", "cpu"):
        raise ConfigError(f"device {device!r} cannot be used: onnxruntime has {', '.join(known)}; expected auto or cpu")
    try:
        session = session_of(path, providers)
    except Exception as error:  # its exceptions have no common base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path}: not an ONNX model that can be loaded: {reason}") from None
    facts = check(path, session.get_modelmeta().custom_metadata_map.get(KEY))
    return Exported(facts, run_of(session))


def session_of(path: Path | bytes, providers: Sequence[str]) -> Any:
    """Create an onnxruntime session that logs only errors, from a file or its contents.

    It gets as many threads as the process has cores; onnxruntime itself would count all cores of the machine.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = cores()
    return onnxruntime.InferenceSession(path, options, providers=providers)


def run_of(session: Any) -> Run:
    """Return the `run` function of an `Exported` for a session."""

    def run(images: Pixels, conf: float, iou: float, top: int) -> Sequence[NDArray[Any]]:
        given = {"conf": np.array(conf, np.float32), "iou": np.array(iou, np.float32), "top": np.array(top, np.int64)}
        return session.run(None, {"images": images, **given})

    return run


def evaluate(model: Exported, shards: Shards, conf: float, iou: float, top: int = 300) -> Predictions:
    """Detect on every record, one image at a time; as `trainers.results.evaluation.run`."""
    return predictions_of(shards, [model.detect([picture(shards, i)], conf, iou, top)[0] for i in range(len(shards))])


def picture(shards: Shards, i: int) -> Pixels:
    """Return the pixels (height, width, 3) of record i, also for a grey cache."""
    pixels = shards.pixels(i)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, 2)


def predictions_of(shards: Shards, every: Sequence[Boxes]) -> Predictions:
    """Concatenate the detections on all records, in source pixels if the shards are a cache."""
    boxes = np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _, _ in every)])
    scores = np.concatenate([np.zeros(0), *(scores for _, scores, _ in every)])
    labels = np.concatenate([np.zeros(0, np.int64), *(labels for _, _, labels in every)])
    record = np.repeat(np.arange(len(every)), [len(labels) for _, _, labels in every])
    home: NDArray[np.float64] = np.linalg.inv(shards.to_stored(np.arange(len(every)))).astype(np.float64)
    limit = np.stack([shards.source.width, shards.source.height] * 2, 1)[record]
    boxes = hull(project(corners_of(boxes), home[record])).clip(0, limit)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Predictions(record[keep], boxes[keep], scores[keep], labels[keep])
