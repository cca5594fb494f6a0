"""Do boxes stay on their objects? Painted rectangles against the boxes that a library moved with them.

    python bench/boxes.py [--images 100] [--results FILE]

Each library gets black pictures with one painted rectangle and its box, and the answer is compared with where the
paint is. Each is used as its documentation says, for boxes in edge coordinates: kornia's come as its own `Boxes` in
"xyxy", since its plain tensors mean the last pixel inside; where a library has a way to clip boxes or to drop those
that are hardly seen, it is used. Libraries that are not installed are passed over; `pip install kornia
albumentations==2.0.8` for all.

A row holds the largest and the mean error of a box's edges, in output pixels, of rectangles that are wholly in the
picture ("value", "mean"), and the largest of those that its edge cuts ("worst_cut"); boxes that were lost although
more than half of the rectangle is seen ("lost"), and boxes that lie outside the picture or hold NaN ("outside").
Paint tells an edge to within half a pixel, the tip of a turned corner to within one. Who clips the hull of a turned
box, and not the turned box itself, keeps more than is seen: that is in "worst_cut".
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import version
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
    """A black picture with a rectangle, whose edges lie between pixels. Its red is full, green rises from a quarter to
    full along x, blue along y, so that what is left of it tells which part that is.
    """
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box.astype(int)
    inside = pixels[y1:y2, x1:x2]
    inside[..., 0] = 255
    inside[..., 1] = np.linspace(64, 255, x2 - x1)
    inside[..., 2] = np.linspace(64, 255, y2 - y1)[:, None]
    return pixels


def found(pixels: Pixels) -> NDArray[np.float64] | None:
    """The box around what is painted, in edge coordinates; None where nothing is."""
    bright = pixels[..., 0] > 127
    x, y = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float) if len(x) else None


def seen(pixels: Pixels, side: NDArray[Any]) -> NDArray[np.float64]:
    """(2,) how many columns and rows of a rectangle, of whose (2,) sides, are in the picture."""
    colour = pixels[pixels[..., 0] > 127].astype(float)
    share = colour[:, 1:] / colour[:, :1]  # at the rectangle's border all three are mixed with black alike
    return np.asarray(np.ptp(share, axis=0) / (1 - 64 / 255) * (side - 1) + 1)


def boxes_of(seed: int) -> list[NDArray[np.float32]]:
    """Where the rectangles are: some at an edge of the picture, one over all of it, one of a single pixel."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [WIDTH - 40, HEIGHT - 40])
    high = np.minimum(low + rng.integers(20, 150, 2), [WIDTH, HEIGHT])
    special = {0: [0, 0, WIDTH, HEIGHT], 1: [0, 0, 60, 40], 2: [WIDTH - 50, HEIGHT - 30, WIDTH, HEIGHT]}
    return [np.array(special.get(seed % 10, [*low, *high]), np.float32)]


def dataforge() -> dict[str, Callable[[Pixels, NDArray[Any], int], Moved]]:
    from dataforge.augment.executors.cpu import warp
    from dataforge.augment.move import move_boxes
    from dataforge.augment.parameters import parameters
    from dataforge.augment.recipes import recipe

    def of(*steps: dict[str, Any], out: tuple[int, int] = (HEIGHT, WIDTH), fit: str = "stretch") -> Any:
        steps = tuple(recipe(steps))

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            size = np.array([pixels.shape[0]]), np.array([pixels.shape[1]])
            rows = np.zeros(len(boxes), int)
            p = parameters(steps, np.array([seed]), *size, out, fit=fit, boxes=boxes, image=rows)
            moved, keep = move_boxes(boxes, rows, p.matrix, out, 0.25)
            return warp(pixels, p.matrix[0], out, fill=0), moved[keep]

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
    from kornia.geometry.boxes import Boxes

    def of(*transforms: Any) -> Any:
        chain = k.AugmentationSequential(*transforms, data_keys=["input", "bbox_xyxy"])

        def move(pixels: Pixels, boxes: NDArray[Any], seed: int) -> Moved:
            torch.manual_seed(seed)
            held = Boxes.from_tensor(torch.from_numpy(boxes)[None], mode="xyxy")
            image, held = chain(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, held)
            last = torch.tensor([[image.shape[3] - 1.0, image.shape[2] - 1.0]])
            held = held.clamp(torch.zeros(1, 2), last)  # its boxes hold the last pixel inside
            image = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
            return image, held.to_tensor("xyxy").reshape(-1, 4).numpy()

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


def measure(move: Callable[[Pixels, NDArray[Any], int], Moved], images: int) -> dict[str, Any]:
    """What a row says of one operation of a library, over so many pictures."""
    whole, cut, lost, outside = [], [], 0, 0
    for seed in range(images):
        boxes = np.stack(boxes_of(seed))
        pixels, moved = move(painted(HEIGHT, WIDTH, boxes[0]), boxes, seed)
        truth = found(pixels)
        if truth is None or (truth[2:] - truth[:2]).min() < 8:
            continue
        side = boxes[0, 2:] - boxes[0, :2]
        part = seen(pixels, side)
        if not len(moved):
            lost += int(part.prod() > 0.5 * side.prod())
            continue
        height, width = pixels.shape[:2]
        inside = (moved >= 0).all() and (moved <= [width, height] * 2).all()
        outside += int(not inside or not np.isfinite(moved).all())
        inner = (truth[:2] > 0).all() and (truth[2:] < [width, height]).all()
        straight = (pixels[..., 0] > 127).sum() == (truth[2:] - truth[:2]).prod()
        all_there = inner or (straight and (part > side - 1.5).all())
        (whole if all_there else cut).append(float(np.abs(moved[0] - truth).max()))
    worst, mean = max(whole, default=0.0), sum(whole) / max(len(whole), 1)
    row = {"value": round(worst, 2), "unit": "px", "mean": round(mean, 2), "whole": len(whole)}
    return row | {"worst_cut": round(max(cut, default=0.0), 2), "cut": len(cut), "lost": lost, "outside": outside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    from dataforge.bench.measure import record_rows

    cv2.setNumThreads(1)
    rows = []
    for library, operations in LIBRARIES.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library}: not installed", file=sys.stderr)
            continue
        for name, move in operations().items():
            row = {"name": f"boxes, {library}, {name}", **measure(move, given.images), "images": given.images}
            rows.append(row | ({} if library == "dataforge" else {"peer_version": version(library)}))
            print(
                f"{library:15} {name:12} worst {row['value']:6.2f} px, mean {row['mean']:5.2f} of {row['whole']:3}; "
                f"cut: worst {row['worst_cut']:6.2f} of {row['cut']:3}; {row['outside']} outside, {row['lost']} lost"
            )
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()
