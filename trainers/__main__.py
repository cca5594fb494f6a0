"""`python -m trainers`: list the trainers."""

from __future__ import annotations

from dataforge.command import command, echo

# Millions of parameters with --defaults paper, for 20 classes; and processor minutes per epoch of
# configs/NAME_bccd.toml (292 images, a pretrained EfficientNet-Lite0), from the rows of whole runs in
# bench/results/2026-11-21.jsonl and 2026-11-26-vit.jsonl; yolov2's is by the clock, on two cores.
TRAINERS = {
    "yolov2": (50.7, 0.5, "fast: one map, a few anchors; also reads Darknet's weights"),
    "ssd": (26.3, 1.0, "six maps, for objects of many sizes in small images"),
    "dense": (
        0.2,
        1.1,
        "small and readable; --defaults paper trains on a laptop from random weights, RetinaNet by its options",
    ),
    "faster_rcnn": (41.4, 1.5, "two stages: the most accurate of these on BCCD"),
    "vit": (96.1, 1.1, "without anchors and NMS; fine-tunes vision transformers such as CLIP's"),
}


@command()
def main() -> None:
    """List the trainers: millions of parameters, minutes per epoch on a CPU, and when to take which."""
    lines = [
        f"python -m trainers.{name:<12} {parameters:>4} M {minutes:>4} min  {words}"
        for name, (parameters, minutes, words) in TRAINERS.items()
    ]
    legend = (
        "M: million parameters with --defaults paper, for 20 classes. min: per epoch of 292 images on a CPU, by "
        "--config bccd with a small pretrained backbone. Options: python -m trainers.NAME --help"
    )
    echo("\n".join([*lines, legend]))


if __name__ == "__main__":
    main(prog_name="python -m trainers")
