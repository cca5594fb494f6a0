"""A small synthetic data set with exact boxes, in the COCO layout: for the demo, benchmarks and experiments.

Textured, shaded and rotated shapes are drawn on backgrounds of gradients, noise and clutter, partly overlapping each
other and the border. Image i is a function of (seed, i) and the range of sizes, so the same call writes the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError

CLASSES = ("ball", "box", "sign", "star", "ring")
HUES = (0.02, 0.60, 0.14, 0.38, 0.86)  # typical hue per class; objects deviate from it
VAL_EVERY = 5  # every fifth image goes to the split "val"
EMPTY, MAX_OBJECTS = 0.06, 6
HIDDEN = 0.2  # largest fraction of an object that other objects or the border may hide

Float = NDArray[np.float32]
Mask = NDArray[np.float32]


def write(root: Path, *, images: int = 640, seed: int = 0, size: tuple[int, int] = (200, 320)) -> None:
    """Write `annotations/instances_{train,val}.json`, `train/` and `val/` below `root`.

    Args:
        images: number of images, of which a fifth is for "val".
        size: minimum and maximum side length, in pixels.

    Raises:
        ConfigError: a value is wrong, or `root` is not free or cannot be written.
    """
    low, high = size
    if images < VAL_EVERY or not 64 <= low <= high:
        raise ConfigError(
            f"images {images}, size {low} {high}; expected at least {VAL_EVERY} images and 64 <= LOW <= HIGH pixels"
        )
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"seed {seed}; expected 0 to 2^63 - 1")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"{root}: is not an empty folder; choose another one")
    try:
        sets = {
            split: {
                "info": {"description": f"dataforge synth, seed {seed}"},
                "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
                "images": [],
                "annotations": [],
            }
            for split in ("train", "val")
        }
        for folder in ("annotations", *sets):
            (root / folder).mkdir(parents=True)
        for i in range(images):
            split = "val" if i % VAL_EVERY == VAL_EVERY - 1 else "train"
            data, (height, width), objects = picture(seed, i, size)
            name = f"{i:06d}.jpg"
            (root / split / name).write_bytes(data)
            _add(sets[split], i, name, height, width, objects)
        for split, content in sets.items():
            file = root / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename or root}: cannot be written: {error.strerror}") from None


def _add(content: dict, i: int, name: str, height: int, width: int, objects: list[tuple[int, Mask]]) -> None:
    content["images"].append({"id": i, "file_name": name, "height": height, "width": width})
    for label, mask in objects:
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        x1, y1 = int(columns[0]), int(rows[0])
        xywh = [x1, y1, int(columns[-1]) + 1 - x1, int(rows[-1]) + 1 - y1]
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": i,
                "category_id": label + 1,
                "bbox": xywh,
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
        )


def picture(
    seed: int, i: int, size: tuple[int, int] = (200, 320)
) -> tuple[bytes, tuple[int, int], list[tuple[int, Mask]]]:
    """Draw image i.

    Returns:
        The JPEG, its (height, width), and each object's label and mask: (height, width), 1 where it is visible.
    """
    rng = np.random.default_rng([seed, i])
    height, width = (int(side) for side in rng.integers(size[0], size[1] + 1, 2))
    image = _background(rng, height, width)
    objects: list[tuple[int, Mask]] = []
    count = 0 if rng.random() < EMPTY else int(rng.integers(1, MAX_OBJECTS + 1))
    for _ in range(count):
        label = int(rng.integers(len(CLASSES)))
        for _ in range(12):  # a position where too little would be visible is rejected
            angle, radius = rng.uniform(0, 2 * np.pi), max(height, width) * rng.uniform(0.10, 0.20)
            squeeze = rng.uniform(0.8, 1)
            centre = rng.uniform(0.05, 0.95, 2) * (width, height)
            corner = np.maximum(centre - 1.4 * radius, 0).astype(int)  # from here on, a patch around the object
            end = np.minimum(centre + 1.4 * radius, (width, height)).astype(int)
            patch = np.s_[corner[1] : end[1], corner[0] : end[0]]
            shape = (int(end[1] - corner[1]), int(end[0] - corner[0]))
            alpha, whole = _cover(_outline(rng, label), centre - corner, radius, angle, squeeze, shape)
            mask = np.zeros((height, width), np.float32)
            mask[patch] = alpha >= 0.5
            left = [float((other * (1 - mask)).sum() / other.sum()) for _, other in objects]
            if mask.sum() >= (1 - HIDDEN) * whole and min(left, default=1) >= 1 - HIDDEN / 2:
                break
        else:
            continue
        objects = [(other, seen * (1 - mask)) for other, seen in objects]
        objects.append((label, mask))
        paint = _paint(rng, label, centre - corner, radius, angle, alpha)
        ground = image[patch] * _shadow(rng, alpha, radius)
        image[patch] = ground + alpha[..., None] * (paint - ground)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))  # type: ignore[assignment]
    image *= rng.uniform(0.75, 1.15)
    image += rng.normal(0, rng.uniform(0.005, 0.03), image.shape).astype(np.float32)
    pixels = (image[..., ::-1] * 255).round().clip(0, 255).astype(np.uint8)
    quality = int(rng.integers(80, 96))
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes(), (height, width), objects


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Float:
    """Return (height, width) smooth noise of about +-1, with features of `cell` pixels."""
    grid = rng.normal(size=(max(2, round(height / cell)), max(2, round(width / cell)))).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def _rgb(hue: float, saturation: float, value: float) -> Float:
    hsv = np.array([[[hue % 1 * 360, saturation, value]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]  # type: ignore[return-value]


def _background(rng: np.random.Generator, height: int, width: int) -> Float:
    """Return a background, (height, width, 3) RGB of about 0..1."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(direction) * x / width + np.sin(direction) * y / height
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    hue = rng.random()
    ends = [_rgb(hue + rng.normal(0, 0.1), rng.uniform(0.05, 0.45), rng.uniform(0.2, 0.85)) for _ in range(2)]
    image = ends[0] + ramp[..., None] * (ends[1] - ends[0])
    strength, tint = rng.uniform(0.03, 0.12), rng.normal(0, 0.5, 3).astype(np.float32)
    image += _noise(rng, height, width, 80)[..., None] * (strength * (1 + tint))
    for k in range(1, 5):
        image += (_noise(rng, height, width, 80 / 2**k) * (strength * 0.65**k))[..., None]
    for _ in range(rng.integers(0, 14)):  # clutter: thin strokes, occasionally a wide one
        points = (rng.uniform(-0.2, 1.2, (2, 2)) * (width, height)).astype(int)
        stroke = np.zeros((height, width), np.float32)
        wide = int(rng.integers(1, 3)) if rng.random() < 0.8 else int(rng.integers(4, 14))
        cv2.line(stroke, tuple(points[0].tolist()), tuple(points[1].tolist()), 1.0, wide, cv2.LINE_8)
        stroke = cv2.GaussianBlur(stroke, (0, 0), rng.uniform(0.5, 2.0))  # type: ignore[assignment]
        colour = _rgb(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.1, 0.95))
        image += stroke[..., None] * np.float32(rng.uniform(0.3, 0.8)) * (colour - image)
    return image.astype(np.float32)


def _outline(rng: np.random.Generator, label: int) -> list[Float]:
    """Return the closed contours of a class in the unit circle, (n, 2) each; the second is a hole."""
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if CLASSES[label] == "box":
        half = np.array([1, rng.uniform(0.7, 1)]) * 0.8
        contours = [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half]
    elif CLASSES[label] == "sign":
        contours = [circle[6::24]]
    elif CLASSES[label] == "star":
        inner = rng.uniform(0.4, 0.5)
        spikes = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        reach = np.where(np.arange(10) % 2, inner, 1.0)
        contours = [np.stack([np.cos(spikes), np.sin(spikes)], 1) * reach[:, None]]
    elif CLASSES[label] == "ring":
        contours = [circle, circle * rng.uniform(0.5, 0.62)]
    else:
        contours = [circle]
    return [contour.astype(np.float32) for contour in contours]


def _cover(
    contours: list[Float], centre: NDArray[np.float64], radius: float, angle: float, squeeze: float, shape: tuple
) -> tuple[Float, float]:
    """Return the fraction of each pixel covered by the rotated outline, 0..1, and its uncropped area in pixels."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = [(contour @ rotation.T) * (1, squeeze) * radius + centre for contour in contours]
    fine = 3  # coverage is the mean of fine x fine samples
    canvas = np.zeros((shape[0] * fine, shape[1] * fine), np.uint8)
    points = [np.round((contour * fine - 0.5) * 16).astype(np.int32) for contour in moved]
    cv2.fillPoly(canvas, points, 255, shift=4)
    alpha = cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA) / np.float32(255)
    areas = [cv2.contourArea(contour.astype(np.float32)) for contour in moved]
    return alpha, areas[0] - sum(areas[1:])


def _shadow(rng: np.random.Generator, alpha: Float, radius: float) -> Float:
    """Return (height, width, 1) the factor by which an object's shadow dims its surroundings."""
    dx, dy = rng.uniform(-0.12, 0.12, 2) * radius
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    cast = cv2.warpAffine(alpha, move, alpha.shape[::-1])
    cast = cv2.GaussianBlur(cast, (0, 0), 1 + radius * 0.06)
    return 1 - np.float32(rng.uniform(0.2, 0.6)) * cast[..., None]  # type: ignore[no-any-return]


def _paint(
    rng: np.random.Generator, label: int, centre: NDArray[np.float64], radius: float, angle: float, alpha: Float
) -> Float:
    """Return (height, width, 3) an object's surface: class pattern, light from one side, a darker rim, mottling."""
    height, width = alpha.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (x - centre[0]) / radius, (y - centre[1]) / radius
    along, across = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    hue = HUES[label] + rng.normal(0, 0.04) if rng.random() < 0.85 else rng.random()
    one = _rgb(hue, rng.uniform(0.5, 0.95), rng.uniform(0.55, 0.95))
    two = _rgb(hue + rng.normal(0, 0.05), rng.uniform(0.1, 0.5), rng.uniform(0.7, 1.0))
    kind, pitch = CLASSES[label], rng.uniform(4, 9)
    if kind == "box":
        pattern = np.sin(along * pitch) > 0.3  # stripes
    elif kind == "sign":
        near = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, 3) / radius
        pattern = near < rng.uniform(0.08, 0.16)  # a border
    elif kind == "star":
        pattern = np.sin(along * pitch * 2) * np.sin(across * pitch * 2) > 0.45  # dots
    elif kind == "ring":
        pattern = np.sin(np.arctan2(v, u) * 4 + angle) > 0  # like a life belt
    else:
        pattern = np.zeros(alpha.shape, bool)
    surface = np.where(pattern[..., None], two, one)
    light = rng.uniform(0, 2 * np.pi)
    slope = np.cos(light) * u + np.sin(light) * v
    shade = 0.95 + 0.25 * slope + 0.06 * _noise(rng, height, width, radius / 3) + 0.04 * _noise(rng, height, width, 3)
    if kind == "ball":
        shade *= np.sqrt(np.clip(1.25 - u * u - v * v, 0.1, None))
        glint = np.exp(-12 * ((u - 0.4 * np.cos(light)) ** 2 + (v - 0.4 * np.sin(light)) ** 2))
        surface = surface + 0.6 * glint[..., None]
    shade *= 1 - 0.25 * (1 - cv2.GaussianBlur(alpha, (0, 0), 1.5))
    return (surface * shade[..., None]).astype(np.float32)  # type: ignore[no-any-return]
