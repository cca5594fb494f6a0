"""Do boxes stay on their objects? Painted rectangles against the boxes that a library moved with them.

    python bench/boxes.py [--images 200] [--json]

Each library gets black pictures with one white rectangle and its box, and the answer is compared with where the white
is. Libraries that are not installed are passed over; `pip install kornia albumentations==2.0.8` for all. A row holds
the largest and the mean error of a box's edges in output pixels, boxes that were lost although more than half of the
rectangle is in the picture, and boxes that lie outside the picture or hold NaN.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Pixels = NDArray[np.uint8]
Moved = tuple[Pixels, NDArray[Any]]
HEIGHT, WIDTH = 240, 320


def painted(height: int, width: int, box: NDArray[Any]) -> Pixels:
    """A black picture with a white rectangle, whose edges lie between pixels."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box.astype(int)
    pixels[y1:y2, x1:x2] = 255
    return pixels


def found(pixels: Pixels) -> NDArray[np.float64] | None:
    """The box around what is white, in edge coordinates; None where nothing is."""
    bright = pixels[..., 0] > 127
    x, y = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float) if len(x) else None


def boxes_of(seed: int) -> list[NDArray[np.float32]]:
    """Where the rectangles are: some at an edge of the picture, one over all of it, one of a single pixel."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [WIDTH - 40, HEIGHT - 40])
    high = np.minimum(low + rng.integers(20, 150, 2), [WIDTH, HEIGHT])
    special = {0: [0, 0, WIDTH, HEIGHT], 1: [0, 0, 60, 40], 2: [WIDTH - 50, HEIGHT - 30, WIDTH, HEIGHT]}
    return [np.array(special.get(seed % 10, [*low, *high]), np.float32)]


def dataforge() -> dict[str, Callable[[Pixels, NDArray[Any], int], Moved]]:
    from dataforge import augment as aug

    def of(*steps: dict[str, Any], out: tuple[int, int] = (HEIGHT, WIDTH), fit: str = "stretch") -> Any:
        steps = tuple(aug.recipe(steps))

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            size = np.array([pixels.shape[0]]), np.array([pixels.shape[1]])
            rows = np.zeros(len(boxes), int)
            p = aug.parameters(steps, np.array([seed]), *size, out, fit=fit, boxes=boxes, image=rows)
            moved, keep = aug.move_boxes(boxes, rows, p.matrix, out, 0.25)
            return aug.warp(pixels, p.matrix[0], out, fill=0), moved[keep]

        return move

    return {
        "flip": of({"op": "flip", "p": 1.0}),
        "resize": of(out=(HEIGHT * 2, WIDTH * 2)),
        "shrink": of(out=(120, 160)),
        "letterbox": of(out=(320, 320), fit="letterbox"),
        "rotate": of({"op": "rotate", "degrees": 30}),
        "shear": of({"op": "shear", "degrees": 15}),
        "perspective": of({"op": "perspective", "strength": 0.15}),
        "crop": of({"op": "crop", "area": 0.3}),
        "zoom out": of({"op": "expand", "p": 1.0}),
    }


def torchvision() -> dict[str, Callable[[Pixels, NDArray[Any], int], Moved]]:
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    def of(*transforms: Any) -> Any:
        chain = v2.Compose([*transforms, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=None)])

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            torch.manual_seed(seed)
            image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
            held = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=pixels.shape[:2])
            image, held = chain(image, held)
            return image.permute(1, 2, 0).numpy(), held.numpy()

        return move

    linear = v2.InterpolationMode.BILINEAR
    return {
        "flip": of(v2.RandomHorizontalFlip(1.0)),
        "resize": of(v2.Resize((HEIGHT * 2, WIDTH * 2))),
        "shrink": of(v2.Resize((120, 160), antialias=True)),
        "rotate": of(v2.RandomRotation(30, linear)),
        "shear": of(v2.RandomAffine(0, shear=(-15, 15, -15, 15), interpolation=linear)),
        "perspective": of(v2.RandomPerspective(0.3, 1.0, linear)),
        "crop": of(v2.RandomResizedCrop((HEIGHT, WIDTH), (0.3, 1))),
        "zoom out": of(v2.RandomZoomOut(p=1.0), v2.Resize((HEIGHT, WIDTH))),
    }


def albumentations() -> dict[str, Callable[[Pixels, NDArray[Any], int], Moved]]:
    import albumentations as a

    def of(*transforms: Any) -> Any:
        rule = a.BboxParams(format="pascal_voc", min_visibility=0.25, clip=True)

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            done = a.Compose(list(transforms), bbox_params=rule, seed=seed)(image=pixels, bboxes=boxes)
            return done["image"], np.asarray(done["bboxes"]).reshape(-1, 4)

        return move

    return {
        "flip": of(a.HorizontalFlip(p=1)),
        "resize": of(a.Resize(HEIGHT * 2, WIDTH * 2)),
        "shrink": of(a.Resize(120, 160)),
        "letterbox": of(a.LongestMaxSize(320), a.PadIfNeeded(320, 320)),
        "rotate": of(a.Rotate(30, p=1)),
        "shear": of(a.Affine(shear={"x": (-15, 15), "y": (-15, 15)}, p=1)),
        "perspective": of(a.Perspective((0.05, 0.15), p=1)),
        "crop": of(a.RandomResizedCrop((HEIGHT, WIDTH), scale=(0.3, 1))),
        "zoom out": of(a.Affine(scale=(0.3, 1), p=1)),
    }


def kornia() -> dict[str, Callable[[Pixels, NDArray[Any], int], Moved]]:
    import kornia.augmentation as k
    import torch

    def of(*transforms: Any) -> Any:
        chain = k.AugmentationSequential(*transforms, data_keys=["input", "bbox_xyxy"])

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            torch.manual_seed(seed)
            image, held = chain(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, torch.from_numpy(boxes)[None])
            image = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
            return image, held.reshape(-1, 4).numpy()

        return move

    return {
        "flip": of(k.RandomHorizontalFlip(p=1.0)),
        "resize": of(k.Resize((HEIGHT * 2, WIDTH * 2))),
        "shrink": of(k.Resize((120, 160), antialias=True)),
        "rotate": of(k.RandomRotation(30.0, p=1.0)),
        "shear": of(k.RandomShear((-15.0, 15.0, -15.0, 15.0), p=1.0)),
        "perspective": of(k.RandomPerspective(0.3, p=1.0)),
        "crop": of(k.RandomResizedCrop((HEIGHT, WIDTH), scale=(0.3, 1.0))),
    }


LIBRARIES = {f.__name__: f for f in (dataforge, torchvision, albumentations, kornia)}


def measure(name: str, move: Callable[[Pixels, NDArray[Any], int], Moved], images: int) -> dict[str, Any]:
    """One row: an operation of a library on so many pictures."""
    errors, lost, outside = [], 0, 0
    for seed in range(images):
        boxes = np.stack(boxes_of(seed))
        try:
            pixels, moved = move(painted(HEIGHT, WIDTH, boxes[0]), boxes, seed)
        except Exception as error:  # what a library refuses is a result
            return {"op": name, "fails": f"{type(error).__name__}: {error}"[:100]}
        truth = found(pixels)
        if truth is None or (truth[2:] - truth[:2]).min() < 8:
            continue
        if not len(moved):
            lost += bool((truth[2:] - truth[:2]).prod() > 0.5 * (boxes[0, 2:] - boxes[0, :2]).prod())
            continue
        height, width = pixels.shape[:2]
        inside = (moved >= 0).all() and (moved <= [width, height] * 2).all()
        outside += not inside or not np.isfinite(moved).all()
        errors.append(np.abs(moved[0] - truth).max())
    return {
        "op": name,
        "worst": round(float(max(errors)), 2),
        "mean": round(float(np.mean(errors)), 2),
        "lost": lost,
        "outside": outside,
        "boxes": len(errors),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    for library, operations in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library}: not installed", file=sys.stderr)
            continue
        for name, move in operations().items():
            row = {"library": library, **measure(name, move, given.images)}
            if given.json:
                print(json.dumps(row))
            elif "fails" in row:
                print(f"{library:15} {name:12} {row['fails']}")
            else:
                print(
                    f"{library:15} {name:12} worst {row['worst']:7.2f} px, mean {row['mean']:6.2f}, "
                    f"{row['outside']} outside, {row['lost']} lost of {row['boxes'] + row['lost']}"
                )


if __name__ == "__main__":
    main()
