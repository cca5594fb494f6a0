from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from dataforge.analysis.show import show
from dataforge.cli.main import main
from dataforge.errors import ConfigError
from dataforge.images.draw import colour
from dataforge.shards.reader import Shards
from tests import tiny


def test_all_images_of_a_class_and_their_boxes_are_drawn(tiny_shards: Path) -> None:
    """Every class's colour shows where all are drawn; the empty image has no box, so it is in no class's sheet."""
    shards = Shards(tiny_shards, "val")
    sheet = show(shards, n=100)
    for label in range(len(tiny.CLASSES)):
        assert (sheet == np.array(colour(label))).all(-1).any()
    tiles = {n: show(shards, n=n, class_name="cat").shape for n in (1, 4, 9, 100)}
    assert tiles[100] == tiles[9] != tiles[4]  # 10 images, of which 9 hold a cat


def test_the_choice_follows_the_seed(tiny_shards: Path) -> None:
    shards = Shards(tiny_shards, "train")
    sheets = [show(shards, n=4, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(sheets[0], sheets[1])
    assert sheets[0].shape == sheets[2].shape and not np.array_equal(sheets[0], sheets[2])


def test_augmented_boxes_lie_where_the_loader_puts_them(tiny_shards: Path) -> None:
    from dataforge.analysis.show import SIZE
    from dataforge.loading.loader import Loader

    plain, flipped = (show(Shards(tiny_shards, "train"), n=10, augment=name, seed=3) for name in (None, "flip"))
    loader = Loader(tiny_shards, batch_size=10, size=SIZE, augment="flip", seed=3)
    turned = sum(int((batch.affine[:, 0, 0] < 0).sum()) for batch in loader)
    assert 0 < turned < 10
    tile = (plain.shape[0] - 4) // 3
    same = [
        np.array_equal(*(sheet[y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] for sheet in (plain, flipped)))
        for y in range(3)
        for x in range(4)
    ]
    assert len(same) - sum(same) == turned


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--class", "cow"], "unknown class 'cow'; known: cat, dog, traffic light"),
        (["--augment", "wild"], "unknown augmentation recipe 'wild'"),
        (["--split", "test"], "unknown split 'test'"),
        (["--out", "{tmp}/no/sheet.jpg"], "cannot be written"),
        (["--out", "{tmp}/sheet.words"], "cannot be written"),
    ],
)
def test_wrong_values(tiny_shards: Path, tmp_path: Path, flags: list[str], words: str) -> None:
    out = [] if "--out" in flags else ["--out", str(tmp_path / "sheet.png")]
    done = CliRunner().invoke(main, ["show", str(tiny_shards), *out, *(flag.format(tmp=tmp_path) for flag in flags)])
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_it_writes_the_picture(tiny_shards: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["show", str(tiny_shards), "--n", "2", "--out", str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output
    with PIL.Image.open(tmp_path / "a.png") as picture:
        assert f"{picture.width}x{picture.height}" in done.output
    with pytest.raises(ConfigError, match="no images to show"):
        show(Shards(tiny.shards(tmp_path / "s", splits=("train",)), "train"), n=0)
