"""`python -m trainers`: list the trainers."""

from __future__ import annotations

import click

from dataforge.command import command

# Processor minutes an epoch of configs/NAME_bccd.toml (292 images, a pretrained EfficientNet-Lite0), from the rows of
# whole runs in bench/results/2026-11-21.jsonl and 2026-11-26-vit.jsonl; yolov2's is by the clock, on two cores.
TRAINERS = {
    "yolov2": (0.5, "fast: one map, a few anchors; also reads Darknet's weights"),
    "ssd": (1.0, "six maps, for objects of many sizes in small images"),
    "dense": (1.1, "small and readable; its defaults train on a laptop from random weights, RetinaNet by its options"),
    "faster_rcnn": (1.5, "two stages: the most accurate of these on BCCD"),
    "vit": (1.1, "without anchors and NMS; fine-tunes vision transformers such as CLIP's"),
}


@command()
def main() -> None:
    """List the trainers: minutes an epoch on a CPU (292 images, configs/NAME_bccd.toml), and when to take which."""
    for name, (minutes, words) in TRAINERS.items():
        click.echo(f"python -m trainers.{name:<12} {minutes:>4} min  {words}")
    click.echo(
        "Times: an epoch of 292 images by configs/NAME_bccd.toml on a CPU. Options: python -m trainers.NAME --help"
    )


if __name__ == "__main__":
    main(prog_name="python -m trainers")
