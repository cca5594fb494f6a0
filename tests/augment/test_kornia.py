"""kornia's intensity augmentations, all that there are: each is an operation that keeps our promises, or is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kornia.augmentation
import numpy as np
import pytest
import torch

from dataforge.augment import recipes
from dataforge.augment.executors import kornia as executor
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.operations import kornia as operations
from dataforge.augment.parameters import parameters
from dataforge.augment.recipes import recipe
from dataforge.errors import ConfigError
from dataforge.loading.loader import Loader
from tests import tiny
from tests.augment.test_executors import Table, in_torch, on_cpu

PARENT = kornia.augmentation.IntensityAugmentationBase2D
EVERY = {name: kind for name, kind in vars(kornia.augmentation).items() if isinstance(kind, type)}
INTENSITY = sorted(name for name, kind in EVERY.items() if issubclass(kind, PARENT) and kind is not PARENT)
SUPPORTED = sorted(set(INTENSITY) - set(operations.REFUSED))
VALUES: dict[str, dict[str, Any]] = {  # where kornia's defaults do nothing, or always the same
    "ColorJiggle": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.2},
    "ColorJitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.2},
    "RandomBrightness": {"brightness": [0.6, 1.4]},
    "RandomClahe": {"clip_limit": [1.0, 20.0], "grid_size": [4, 4]},
    "RandomContrast": {"contrast": [0.6, 1.4]},
    "RandomGamma": {"gamma": [0.5, 2.0], "gain": [0.8, 1.2]},
    "RandomGaussianBlur": {"kernel_size": 5},
    "RandomGaussianNoise": {"std": 0.1},
    "RandomHue": {"hue": [-0.3, 0.3]},
    "RandomJPEG": {"jpeg_quality": [5, 90]},
    "RandomMotionBlur": {"kernel_size": [3, 9], "angle": [-90.0, 90.0], "direction": [-1.0, 1.0]},
    "RandomPosterize": {"bits": [1, 6]},
    "RandomRain": {"number_of_drops": [20, 60]},
    "RandomSaturation": {"saturation": [0.2, 1.8]},
    "RandomSharpness": {"sharpness": [0.5, 20.0]},
    "RandomSnow": {"snow_coefficient": [0.2, 0.8], "brightness": [1.5, 3.0]},
    "RandomSolarize": {"thresholds": [0.2, 0.7], "additions": [-0.3, 0.3]},
}
FIXED = {"RandomAutoContrast", "RandomBoxBlur", "RandomEqualize", "RandomGrayscale", "RandomInvert", "RandomMedianBlur"}
STEEP = {"RandomEqualize", "RandomPosterize", "RandomSolarize", "RandomClahe", "RandomSnow", "RandomJPEG"}
DOUBLE = {"RandomClahe", "RandomMotionBlur"}  # kornia computes these in float64
SHAPE = (48, 64)


def step(name: str, **values: Any) -> dict[str, Any]:
    return {"op": f"kornia.{name}", "p": 1.0, **VALUES.get(name, {}), **values}


def layout(steps: list[dict[str, Any]], records: Any = range(6), seed: int = 3, epoch: int = 0) -> Layout:
    return lay_out(recipe(steps), np.array(records), Table(), SHAPE, seed=seed, epoch=epoch)


def pictures(n: int = 6) -> torch.Tensor:
    """(n, 3, H, W) in 0..1: the same smooth picture n times, so that what differs was drawn."""
    return torch.from_numpy(tiny.pixels(*SHAPE)).permute(2, 0, 1).expand(n, 3, *SHAPE) / 255


def changed(name: str, records: Any = range(6), seed: int = 3, epoch: int = 0) -> torch.Tensor:
    laid = layout([step(name)], records, seed, epoch)
    return executor.apply(pictures(len(records)), laid.parameters.kornia, np.arange(len(records)))


def test_each_of_kornia_s_is_supported_or_refused_with_a_reason() -> None:
    assert operations.REFUSED.keys() <= set(INTENSITY) and operations.names() == SUPPORTED and len(SUPPORTED) >= 35
    readme = Path(recipes.__file__).with_name("README.md").read_text("utf-8")
    assert ", ".join(f"`{name}`" for name in SUPPORTED) in " ".join(readme.split())
    for name in sorted(set(EVERY) - set(SUPPORTED)):
        with pytest.raises(ConfigError, match=f"'kornia.{name}' is not supported: ."):
            recipe([{"op": f"kornia.{name}"}])


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_picture_is_the_same_in_any_batch_and_another_in_each_epoch(name: str) -> None:
    state = torch.get_rng_state()
    whole = changed(name)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers are used up
    torch.rand(7)  # nor do they matter
    assert whole.shape == (6, 3, *SHAPE) and whole.min() >= 0 and whole.max() <= 1  # no NaN either
    torch.testing.assert_close(changed(name), whole, rtol=0, atol=0)
    torch.testing.assert_close(changed(name, [4, 1]), whole[[4, 1]], rtol=0, atol=2e-5)
    for record in range(6):
        torch.testing.assert_close(changed(name, [record])[0], whole[record], rtol=0, atol=2e-5)
    assert (whole - pictures()).abs().mean() > 1e-4
    apart = [(a - b).abs().max() > 1e-3 for a, b in [(changed(name, epoch=1), whole), (changed(name, seed=4), whole)]]
    apart += [len({tuple(image.flatten().tolist()) for image in whole}) > 2]
    assert apart == [name not in FIXED] * 3


@pytest.mark.parametrize("name", SUPPORTED)
def test_both_executors_agree(name: str) -> None:
    """The one starts from whole grey levels, the other does not; steep curves enlarge what that makes."""
    table, laid = Table(), layout([step(name)])
    error = np.abs(on_cpu(laid, table, SHAPE) - in_torch(laid, table, SHAPE, name in DOUBLE))
    assert error.mean() < (0.03 if name in STEEP else 0.01)
    assert (error > 0.06).mean() < (0.12 if name in STEEP else 0.01)


@pytest.mark.parametrize("name", SUPPORTED)
def test_flat_pictures_stay_pictures(name: str) -> None:
    laid = layout([step(name)], range(3))
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, *SHAPE).clone()
    after = executor.apply(flat, laid.parameters.kornia, np.arange(3))
    assert after.shape == (3, 3, *SHAPE) and ((after >= 0) & (after <= 1)).all()


@pytest.mark.parametrize("name", SUPPORTED)
def test_boxes_stay_and_p_is_drawn_by_record(name: str) -> None:
    plain, laid = layout([]), layout([step(name, p=0.5)], range(40))
    np.testing.assert_array_equal(layout([step(name)]).boxes, plain.boxes)
    np.testing.assert_array_equal(layout([step(name)]).labels, plain.labels)
    (drawn,) = laid.parameters.kornia
    assert 8 < drawn.chosen.sum() < 32 and len(set(drawn.seed.tolist())) == 40
    after = executor.apply(pictures(40), laid.parameters.kornia, np.arange(40))
    same = (after == pictures(40)).flatten(1).all(1).numpy()
    assert same[~drawn.chosen].all() and same[drawn.chosen].mean() < 0.5
    default = kornia.augmentation.__dict__[name]
    assert parameters([{"op": f"kornia.{name}"}], np.arange(4000), *np.full((2, 4000), 9), (9, 9)).kornia[
        0
    ].chosen.mean() == pytest.approx(default(**operations._DEFAULTS.get(name, {})).p, abs=0.03)


MIX = [
    {"op": "mosaic", "p": 0.3},
    {"op": "flip"},
    step("RandomPlasmaShadow", p=0.6),
    {"op": "contrast", "p": 0.5},
    step("RandomMotionBlur", p=0.6),
    step("ColorJiggle", p=0.6),
    step("RandomRain", p=0.6),
    step("RandomChannelDropout", p=0.4),
    {"op": "erase", "p": 0.5},
    {"op": "normalise"},
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("kornia") / "shards", repeat=2, splits=("train",))


@pytest.mark.parametrize("on_cpu", [True, False], ids=["by picture", "by batch"])
def test_batches_do_not_depend_on_size_threads_ranks_or_where_one_goes_on(shards: Path, on_cpu: bool) -> None:
    def images(first: int = 0, **how: Any) -> dict[int, torch.Tensor]:
        # without the mosaic, the executor of whole batches, here on the CPU; it leaves combined records to the other
        loader = Loader(shards, size=SHAPE, augment=MIX[not on_cpu :], seed=5, shuffle=False, **how)
        loader.collate.on_cpu = on_cpu
        loader.load_state_dict({**loader.state_dict(), "step": first})
        pictures = {}
        for batch in loader:
            torch.rand(3)  # a training loop draws, too, while others decode
            pictures |= dict(zip(batch.index.tolist(), batch.images.clone(), strict=True))
        return pictures

    whole = images(batch_size=20, threads=1)
    assert len(whole) == 20
    ways = [{"batch_size": 3, "threads": 3}, {"batch_size": 1, "threads": 2}, {"batch_size": 4, "first": 2}]
    ways += [{"batch_size": 2, "rank": rank, "world": 2} for rank in (0, 1)]
    for how in ways:
        for record, image in images(**how).items():
            torch.testing.assert_close(image, whole[record], rtol=0, atol=1e-3)  # a normalisation makes it 4.5 times


def test_steps_go_in_the_order_of_the_recipe_after_ours_and_before_normalisation() -> None:
    invert, dim = step("RandomInvert"), step("RandomBrightness", brightness=[0.5, 0.5])
    table, normalise = Table(), {"op": "normalise", "mean": [0.5] * 3, "std": [0.25] * 3}
    plain = on_cpu(layout([{"op": "gamma", "low": 2, "high": 2}]), table, SHAPE)
    gamma = {"op": "gamma", "low": 2, "high": 2}
    for paint in (on_cpu, in_torch):
        for steps, expected in [
            ([normalise, invert, dim, gamma], (1 - plain - 0.5).clip(0, 1)),
            ([dim, normalise, gamma, invert], 1 - (plain - 0.5).clip(0, 1)),
        ]:
            error = np.abs(paint(layout(steps), table, SHAPE) * 0.25 + 0.5 - expected)
            assert error.mean() < 0.01 and np.quantile(error, 0.99) < 0.06


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"op": "kornia.RandomMotionBlurr"},
            "unknown augmentation 'kornia.RandomMotionBlurr'.*kornia.RandomMotionBlur",
        ),
        ({"op": "kornia.annotations"}, "unknown augmentation 'kornia.annotations'"),
        ({"op": "kornia."}, "unknown augmentation 'kornia.'"),
        ({"op": "RandomMotionBlur"}, "unknown augmentation 'RandomMotionBlur'.*kornia.NAME"),
        ({"op": "kornia.RandomAffine", "degrees": 5}, "'kornia.RandomAffine' is not supported: .*'rotate'"),
        ({"op": "kornia.RandomMixUpV2"}, "'kornia.RandomMixUpV2' is not supported: .*'mixup'"),
        ({"op": "kornia.Normalize", "mean": 0.5, "std": 0.5}, "use 'normalise'"),
        (
            {"op": "kornia.RandomMotionBlur", "kernel": 5},
            "unknown value 'kernel'; known: kernel_size, angle, direction",
        ),
        ({"op": "kornia.RandomHue", "same_on_batch": True}, "unknown value 'same_on_batch'; known: hue, p"),
        ({"op": "kornia.RandomHue", "p": 2}, "p is 2; expected 0 to 1"),
        ({"op": "kornia.RandomHue", "hue": [0.1, 3]}, "'kornia.RandomHue': {'hue': .*}; kornia: ."),
        ({"op": "kornia.RandomHue", "hue": "red"}, "'kornia.RandomHue': {'hue': 'red'}; kornia: ."),
        ({"op": "kornia.RandomMotionBlur", "border_type": "soft"}, "'soft'.*; kornia: ."),
    ],
)
def test_what_is_wrong_is_said_in_one_line_when_the_recipe_is_read(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        recipe([wrong])
    assert "\n" not in str(caught.value)


def test_what_only_pixels_show_is_said_in_one_line(shards: Path) -> None:
    steps = [step("RandomMedianBlur", kernel_size=[99, 99])]
    with pytest.raises(ConfigError, match=r"'kornia.RandomMedianBlur' on 48 x 64 pixels; kornia: .") as caught:
        list(Loader(shards, size=SHAPE, augment=steps))
    assert "\n" not in str(caught.value)


def test_values_are_taken_as_toml_has_them(tmp_path: Path) -> None:
    file = tmp_path / "kornia.toml"
    file.write_text(
        "steps = [\n"
        '  { op = "kornia.RandomMotionBlur", kernel_size = 5, p = 0.3 },\n'
        '  { op = "kornia.RandomBoxBlur", kernel_size = [5, 3], p = 1 },\n'
        '  { op = "kornia.RandomPlanckianJitter", select_from = [1, 20], p = 1 },\n'
        '  { op = "kornia.RandomGrayscale", rgb_weights = [0.2, 0.3, 0.5], p = 1 },\n'
        '  { op = "kornia.ColorJitter", hue = 0.1, order = [3, 0] },\n'
        "]\n"
    )
    laid = lay_out(recipe(file), np.arange(6), Table(), SHAPE)
    assert operations.module(laid.parameters.kornia[1].values).flags["kernel_size"] == (5, 3)
    grey = executor.apply(pictures(), laid.parameters.kornia[3:4], np.arange(6))
    torch.testing.assert_close(grey[:, 0], (pictures() * torch.tensor([0.2, 0.3, 0.5]).view(3, 1, 1)).sum(1))
    after = executor.apply(pictures(), laid.parameters.kornia, np.arange(6))
    assert after.shape == (6, 3, *SHAPE)


def test_a_mosaic_is_changed_as_a_whole_by_its_own_record_s_numbers() -> None:
    noise = step("RandomGaussianNoise")
    laid = layout([{"op": "mosaic", "p": 1.0}, {**noise}])
    assert len(laid.parts.record) > 6
    table, plain = Table(), layout([{"op": "mosaic", "p": 1.0}])
    grain = on_cpu(laid, table, SHAPE) - on_cpu(plain, table, SHAPE)
    alone = layout([{"op": "flip", "p": 0.0}, {**noise}])  # draws go by the place in the list
    empty = executor.apply(torch.full((6, 3, *SHAPE), 0.5), alone.parameters.kornia, np.arange(6)) - 0.5
    free = (on_cpu(plain, table, SHAPE) > 0.4) & (on_cpu(plain, table, SHAPE) < 0.6)
    np.testing.assert_allclose(grain[free], empty.permute(0, 2, 3, 1).numpy()[free], atol=1e-5)


def test_kornia_is_not_imported_without_such_a_step(shards: Path) -> None:
    code = "import sys\nfrom dataforge import Loader\nfrom dataforge.augment import recipes\n"
    code += "def load(steps):\n    next(iter(Loader(sys.argv[1], size=(64, 64), augment=steps)))\n"
    code += "    return 'kornia' in sys.modules\n"
    code += "assert not load('strong') and load([{'op': 'kornia.RandomInvert'}])"
    command = [sys.executable, "-W", "error", "-c", code, str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
