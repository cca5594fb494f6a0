"""Draw docs/pictures/vit_duplicates.png: a small detector, trained with and without the class in the assignment's cost.

python docs/vit.py
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dataforge.loading.batch import Batch
from trainers.models import one_to_one
from trainers.models.boxes import iou
from trainers.vit import ViT

HERE = Path(__file__).parent
SIDE, CLASSES, OBJECTS = 64, 2, 3
COSTS = {"class cost on": one_to_one.WEIGHTS, "class cost off": (0.0, *one_to_one.WEIGHTS[1:])}
NEAR = 0.5  # IoU from which a detection is one of an object
SHARE = 0.5  # of an object's best score, from which a further detection counts as a duplicate


def draw_batch(count: int, seed: int) -> Batch:
    """Light and dark rectangles on noise, up to three an image, one in each of three corners."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, SIDE, SIDE, generator=draw) * 0.2 + 0.4
    corner = torch.rand(count, OBJECTS, 2, generator=draw) * 10 + torch.tensor([[0, 0], [32, 0], [0, 32]])
    size = torch.rand(count, OBJECTS, 2, generator=draw) * 10 + 12
    boxes = torch.cat([corner, corner + size], 2).round()
    labels = torch.randint(-1, CLASSES, (count, OBJECTS), generator=draw)
    y, x = torch.arange(SIDE).view(-1, 1), torch.arange(SIDE)
    for k in range(OBJECTS):
        x1, y1, x2, y2 = boxes[:, k].view(count, 4, 1, 1).unbind(1)
        painted = (x >= x1) & (x < x2) & (y >= y1) & (y < y2) & (labels[:, k] >= 0).view(-1, 1, 1)
        images = torch.where(painted.unsqueeze(1), labels[:, k].view(-1, 1, 1, 1).float(), images)
    flags, index = torch.zeros(count, OBJECTS, dtype=torch.uint8), torch.arange(count)
    affine = torch.eye(3).repeat(count, 1, 1)
    return Batch(images=images, boxes=boxes, labels=labels, flags=flags, affine=affine, index=index)


def detections_of_each(detector: ViT, batch: Batch) -> Tensor:
    """(objects,) how many detections each object has: of its class, near it, and of at least half its best score.

    They are counted as training left them, before the max filter over neighbours.
    """
    with torch.no_grad():
        detector.eval()
        unfiltered = detector(batch.images)._replace(shapes=())
        result = detector.decode(unfiltered, conf=0.0, top=100)
    near = (iou(batch.boxes, result.boxes) >= NEAR) & (batch.labels.unsqueeze(2) == result.labels.unsqueeze(1))
    scores = torch.where(near, result.scores.unsqueeze(1), 0.0)
    best = scores.amax(2, keepdim=True)
    return ((scores >= SHARE * best) & near).sum(2)[batch.labels >= 0]


def experiment(steps: int, every: int) -> dict[str, list[tuple[int, float]]]:
    """For each cost, the mean detections an object has after so many steps."""
    curves: dict[str, list[tuple[int, float]]] = {}
    test = draw_batch(64, seed=0)
    for name, cost in COSTS.items():
        torch.manual_seed(0)
        detector = ViT(
            CLASSES, backbone="test_vit", window=4, global_blocks=6, strides=[4, 8], width=32, depth=2, cost=cost
        )
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
        curves[name] = []
        for step in range(1, steps + 1):
            batch = draw_batch(16, seed=step)
            losses = detector.train().loss(detector(batch.images), batch)
            torch.stack(list(losses.values())).sum().backward()
            clip_grad_norm_(detector.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % every == 0:
                curves[name].append((step, float(detections_of_each(detector, test).float().mean())))
    return curves


def plot(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=f"{name}: {points[-1][1]:.2f} at the end")
    axes.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="step", ylabel="detections an object", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=100)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "pictures", help="Folder of the picture.")
@click.option("--steps", default=600, help="Steps of each of the two trainings.")
@click.option("--every", default=50, help="Steps between measurements.")
def main(out: Path, steps: int, every: int) -> None:
    """Write OUT/vit_duplicates.png and print what it shows."""
    curves = experiment(steps, every)
    plot(curves, out / "vit_duplicates.png")
    for name, points in curves.items():
        click.echo(f"{name}: " + ", ".join(f"{step}: {value:.2f}" for step, value in points))


if __name__ == "__main__":
    main()
