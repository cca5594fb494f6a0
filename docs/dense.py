"""Make the pictures and fill in the numbers of `docs/dense.md`: draw a set, train on it, look.

python docs/dense.py

The page keeps its text; the text between <!--=name--> and <!--/--> is replaced by this run's numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import PIL.Image
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dataforge.errors import ConfigError
from dataforge.formats import coco
from dataforge.images import synth
from dataforge.images.draw import Pixels, contact_sheet
from dataforge.ingest.run import ingest
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from trainers import checkpoint
from trainers.dense import PRIOR, Dense, DenseConfig, match
from trainers.models import anchors, assign, losses
from trainers.models import boxes as geometry
from trainers.results import monitor, plots
from trainers.training import engine

HERE = Path(__file__).parent
SLOT = re.compile(r"(<!--=(\w+)-->).*?(<!--/-->)", re.DOTALL)
COLOURS = 96  # of a picture's palette; keeps the files small


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Folder of pictures/ and of dense.md.")
@click.option("--images", default=640, help="How many pictures are drawn; a fifth is for validation.")
@click.option("--epochs", default=40, help="Passes over the others.")
def main(out: Path, images: int, epochs: int) -> None:
    """Write OUT/pictures/dense_*.png, and the numbers into OUT/dense.md."""
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        shards, runs = Path(name) / "shards", Path(name) / "runs"
        synth.write(Path(name) / "drawn", images=images)
        ingest(coco.read(Path(name) / "drawn"), shards)
        config = DenseConfig(shards=str(shards), runs=str(runs), epochs=epochs, keep=epochs, device="cpu")
        folder = engine.train(config, "dense")
        saved = sorted((folder / "weights").glob("step-*.pt"))
        early, model = (checkpoint.load_detector(file)[0] for file in (saved[0], saved[-1]))
        table = np.genfromtxt(folder / "results.csv", delimiter=",", names=True, deletechars="", ndmin=1)
        loader = Loader(shards, "val", 64, (config.size[0], config.size[1]), fit=config.fit, shuffle=False)
        seen = grey(next(iter(loader)))
        train_images = len(Loader(shards, "train").shards)
    assert isinstance(early, Dense) and isinstance(model, Dense)
    few = seen[:4]
    shown, at_first = (monitor.pictures(one, few, loader.classes) for one in (model, early))
    with torch.no_grad():
        numbers = set_up(seen, model) | matching(seen, model) | balance(seen, early, model) | nms(few, model)
    numbers |= {"train_images": train_images, "val_images": len(loader.shards), "epochs": epochs}
    numbers |= {"classes": ", ".join(loader.classes), "height": config.size[0], "width": config.size[1]}
    for key, row in (("first", table[0]), ("last", table[-1])):
        numbers |= {f"loss_{key}": f"{row['loss']:.2f}", f"map_{key}": f"{row['mAP50']:.2f}"}
    made = {
        "anchors": anchors_of_a_cell(seen, model),
        "matching": matched(seen, model),
        "focal": focal_chart(),
        "heat_first": at_first["heat maps"],
        "heat_last": shown["heat maps"],
        "before_nms": shown["found before NMS"],
        "found": shown["found"],
        "filters": shown["filters"],
        "features": shown["feature maps"],
        "curves": curves(table),
    }
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, pixels in made.items():
        picture = PIL.Image.fromarray(pixels).quantize(COLOURS, dither=PIL.Image.Dither.NONE)
        picture.save(out / "pictures" / f"dense_{name}.png", optimize=True)
    (out / "dense.md").write_text(filled((HERE / "dense.md").read_text("utf-8"), numbers), "utf-8")
    click.echo("\n".join(f"{key} {value}" for key, value in numbers.items()))


def filled(page: str, numbers: Mapping[str, object]) -> str:
    """The page with its numbers.

    Raises:
        ConfigError: the page names one that is not computed.
    """
    lacking = {name for _, name, _ in SLOT.findall(page)} - numbers.keys()
    if lacking:
        raise ConfigError(f"dense.md: nothing gives {', '.join(sorted(lacking))}; there are {', '.join(numbers)}")
    return SLOT.sub(lambda slot: f"{slot[1]}{numbers[slot[2]]}{slot[3]}", page)


def grey(batch: Batch) -> Batch:
    """The batch as the network sees it, still with three channels, so that it can be drawn on."""
    luma = (batch.images.float() * torch.tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)).sum(1, keepdim=True)
    return Batch(**vars(batch) | {"images": luma.round().byte().expand(-1, 3, -1, -1)})


def the_image(batch: Batch) -> int:
    """The image that examples are shown on: the first with three objects, which lie apart, else the one with most."""
    counts = (batch.labels >= 0).sum(1)
    apart = geometry.iou(batch.boxes, batch.boxes).triu(1).sum((1, 2)) == 0
    good = ((counts == 3) & apart).int()
    return int(good.argmax() if good.any() else counts.argmax())


def set_up(batch: Batch, model: Dense) -> dict[str, object]:
    """The numbers of cells and anchors."""
    raw = model(batch.images[:1])
    rows, columns = raw.maps[0].shape[2:]
    return {
        "parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "rows": rows,
        "columns": columns,
        "sizes": ", ".join(f"{side:g}" for side in model.sizes[0]),
        "per_cell": len(raw.anchors) // (rows * columns),
        "anchors": f"{len(raw.anchors):,}",
        "scores": f"{raw.logits[0].numel():,}",
        "prior": PRIOR,
    }


def matching(batch: Batch, model: Dense) -> dict[str, object]:
    """How many anchors an image has that learn an object, that are left aside, and that learn that there is none."""
    raw = model(batch.images)
    owner = match(raw.anchors, batch)
    positive = owner >= 0
    labelled = batch.labels >= 0
    overlap = geometry.iou(raw.anchors.expand(len(batch), -1, 4), batch.boxes)
    best = overlap.amax(1)[labelled]
    wanted, _ = assign.goals(batch, owner)
    moved = anchors.from_offsets(raw.offsets, raw.anchors)
    return {
        "objects": f"{float(labelled.sum(1).float().mean()):.1f}",
        "positives": f"{float(positive.sum(1).float().mean()):.0f}",
        "ignored": f"{float((owner == assign.IGNORED).sum(1).float().mean()):.0f}",
        "negatives": f"{float((owner == assign.NEGATIVE).sum(1).float().mean()):.0f}",
        "forced": f"{float((best < 0.5).float().mean()):.0%}",
        "iou_anchor": f"{float(pairwise(raw.anchors.expand(len(batch), -1, 4), wanted)[positive].mean()):.2f}",
        "iou_box": f"{float(pairwise(moved, wanted)[positive].mean()):.2f}",
    }


def pairwise(one: Tensor, other: Tensor) -> Tensor:
    """(..., 4) and (..., 4) -> (...) the IoU of each box with the other at its index."""
    return geometry.iou(one.unsqueeze(-2), other.unsqueeze(-2))[..., 0, 0]


def balance(batch: Batch, early: Dense, model: Dense) -> dict[str, object]:
    """What share of the class loss comes from anchors without an object, by plain cross-entropy and by focal loss."""
    numbers: dict[str, object] = {}
    for name, one in (("first", early), ("last", model)):
        raw = one(batch.images)
        owner = match(raw.anchors, batch)
        _, labels = assign.goals(batch, owner)
        target = torch.nn.functional.one_hot(labels + 1, one.classes + 1)[..., 1:].float()
        for loss, values in (("plain", {"alpha": -1.0, "gamma": 0.0}), ("focal", {})):
            each = losses.focal(raw.logits, target, **values).sum(-1)
            sums = [float(each[mask].sum()) for mask in (owner == assign.NEGATIVE, owner >= 0)]
            numbers[f"{loss}_{name}"] = f"{sums[0] / sum(sums):.0%}"
    return numbers


def nms(batch: Batch, model: Dense) -> dict[str, object]:
    """How many boxes non-maximum suppression leaves, in the pictures that are shown."""
    raw = model(batch.images)
    counts = [int((model.decode(raw, conf=monitor.CONFIDENCE, iou=iou).labels >= 0).sum()) for iou in (1.0, 0.5)]
    objects = int((batch.labels >= 0).sum())
    return {"conf": monitor.CONFIDENCE, "before_nms": counts[0], "after_nms": counts[1], "shown_objects": objects}


def anchors_of_a_cell(batch: Batch, model: Dense) -> Pixels:
    """The cells over an image, and the anchors of the one in the middle of its object that is nearest to the centre."""
    i = the_image(batch)
    raw = model(batch.images[:1])
    rows, columns = raw.maps[0].shape[2:]
    height, width = batch.images.shape[2:]
    stride = model.strides[0]
    cells = anchors.grid(torch.tensor([[stride, stride]]), rows, columns, (stride, stride), 0.5)
    each = len(raw.anchors) // len(cells)
    centres = (batch.boxes[i, :, :2] + batch.boxes[i, :, 2:])[batch.labels[i] >= 0] / 2
    x, y = centres[(centres - torch.tensor([width / 2, height / 2])).norm(dim=1).argmin()].tolist()
    first = (int(y) // stride * columns + int(x) // stride) * each
    chosen = raw.anchors[first : first + each].numpy()
    sizes = np.repeat(np.arange(each // 3), 3)
    picture = plots.pictures(batch.images[i : i + 1])
    labels = [np.zeros(len(cells), np.int64), sizes]
    return contact_sheet(picture * 2, [cells.numpy(), chosen], labels, [""] * each, side=monitor.SIDE, columns=2)


def matched(batch: Batch, model: Dense) -> Pixels:
    """An image's objects, the anchors that learn them, and those that are left aside."""
    i = the_image(batch)
    one = batch[i : i + 1]
    fixed = model(one.images).anchors
    owner = match(fixed, one)[0]
    nearest = one.labels[0][geometry.iou(fixed, one.boxes[0]).argmax(1)]
    groups = [owner >= 0, owner == assign.IGNORED]
    boxes = [one.boxes[0].numpy(), *(fixed[group].numpy() for group in groups)]
    labels = [one.labels[0].numpy(), *(nearest[group].numpy() for group in groups)]
    picture = plots.pictures(one.images)
    return contact_sheet(picture * 3, boxes, labels, [""] * model.classes, side=monitor.SIDE, columns=3)


def focal_chart() -> Pixels:
    """Loss of an anchor against how sure the class head is of the right answer."""
    sure = torch.linspace(0.01, 0.99, 99)
    logits, target = torch.logit(sure), torch.ones(99)
    figure = Figure(figsize=(5, 2.8), dpi=100, layout="constrained")
    axis = figure.subplots()
    for gamma, words in ((0.0, "cross-entropy"), (2.0, "focal loss, gamma 2")):
        axis.plot(sure, losses.focal(logits, target, alpha=-1, gamma=gamma), label=words)
    axis.set(xlabel="probability given to the right answer", ylabel="loss", ylim=(0, 4))
    axis.grid(alpha=0.3)
    axis.legend()
    return rendered(figure)


def curves(table: np.ndarray) -> Pixels:
    """The loss and mAP50 after each epoch."""
    figure = Figure(figsize=(7, 2.4), dpi=100, layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("loss", "mAP50"), strict=True):
        axis.plot(table["epoch"], table[name], marker=".")
        axis.set(xlabel="epoch", title=name)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    return rendered(figure)


def rendered(figure: Figure) -> Pixels:
    """A figure's pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


if __name__ == "__main__":
    main()
