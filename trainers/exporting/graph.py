"""Legend: B images, h x w source pixels, K detections.

A detector with its pre- and post-processing as one module: pixels in, boxes in the same pixels out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dataforge.augment.preprocess import Preprocess
from trainers.models.detector import Detector, unit

SLOTS = 300  # K, unless there are fewer candidates
NAMES = ("boxes", "scores", "labels")  # of the outputs


class Graph(nn.Module):
    """The steps of `trainers.predict` between decoding an image and drawing boxes.

    Args:
        size: (height, width) of the network's input.
        fit: "letterbox" or "stretch"; None for images that already have that size.
    """

    def __init__(self, detector: Detector, size: tuple[int, int], fit: str | None) -> None:
        super().__init__()
        self.detector = detector
        self.preprocess = Preprocess(size, fit) if fit else None

    def forward(self, images: Tensor, conf: Tensor, iou: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            images: (B, h, w, 3) uint8 RGB.
            conf: () float32, the minimum score; iou: () float32, the overlap for NMS; top: () int64, the maximum number
                of detections per image, up to K.

        Returns:
            boxes (B, K, 4) float32 xyxy in pixels of `images`, clipped to them; scores (B, K), best first; labels
            (B, K) int64, -1 for none.
        """
        fitted, affine = self.fit(images)
        return self.finish(self.raw(fitted), affine, images, conf, iou, top)

    def fit(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the detector's input (B, 3, H, W), and the matrices from source pixels to its pixels (B, 3, 3)."""
        pixels = images.permute(0, 3, 1, 2)
        return self.preprocess(pixels) if self.preprocess else (pixels, None)

    def raw(self, fitted: Tensor) -> Any:
        """Return the raw outputs of the network, which is computed in the type of its weights."""
        return self.detector(unit(fitted).to(next(self.detector.parameters()).dtype))

    def finish(
        self, raw: Any, affine: Tensor | None, images: Tensor, conf: Tensor, iou: Tensor, top: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Convert the detector's raw outputs to detections."""
        detections = self.detector.decode(raw, conf=conf, iou=iou, top=SLOTS)
        if affine is not None:
            detections = detections.to_source(affine)
        h, w = (torch.full((), side, dtype=torch.float32, device=images.device) for side in images.shape[1:3])
        boxes = detections.boxes.clamp(min=0).minimum(torch.stack([w, h, w, h]))
        rank = torch.arange(boxes.shape[1], device=boxes.device)
        keep = (detections.labels >= 0) & (rank < top) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return boxes * keep.unsqueeze(-1), detections.scores * keep, torch.where(keep, detections.labels, -1)


class Stages(Graph):
    """Graph that also returns intermediate values, to find the first stage in which an exported graph differs."""

    def forward(self, images: Tensor, conf: Tensor, iou: Tensor, top: Tensor) -> dict[str, list[Tensor]]:  # type: ignore[override]
        """Return tensors by stage: "preprocessing", "features" (the backbone's maps), "head" (the raw outputs) and
        "post-processing".
        """
        fitted, affine = self.fit(images)
        maps: list[Tensor] = []
        backbone = getattr(self.detector, "backbone", None)
        hook = backbone.register_forward_hook(lambda _, given, out: maps.extend(out)) if backbone else None
        raw = self.raw(fitted)
        if hook:
            hook.remove()
        head = [x for x in tree_leaves(raw) if isinstance(x, Tensor)]
        detections = self.finish(raw, affine, images, conf, iou, top)
        return {"preprocessing": [fitted], "features": maps, "head": head, "post-processing": list(detections)}


class Flat(torch.nn.Module):
    """Wrapper that returns the stages as a flat tuple."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, images: Any, conf: Any, iou: Any, top: Any) -> tuple[Any, ...]:
        return tuple(x for part in self.stages(images, conf, iou, top).values() for x in part)


def program_of(graph: torch.nn.Module, facts: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the graph as traced by torch, for the inputs that a model's metadata state."""
    static = facts["input"] != "any"
    height, width = facts["size"] if static else (151, 211)
    count = 2 if facts["batch"] == "any" else facts["batch"]
    axes: dict[int, Any] = {} if static else {1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    if facts["batch"] == "any":
        axes[0] = torch.export.Dim("batch")
    example = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    given = (example, torch.tensor(facts["conf"]), torch.tensor(facts["iou"]), torch.tensor(facts["top"]))
    with torch.no_grad():
        return torch.export.export(graph.eval(), given, dynamic_shapes=(axes, None, None, None), strict=False)
