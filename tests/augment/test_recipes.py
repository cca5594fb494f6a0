"""Recipes are data: checked when they are read, and the list of operations is the code's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataforge.augment import recipes
from dataforge.augment.operations.registry import OPERATIONS, setting, values_of
from dataforge.augment.parameters import parameters
from dataforge.augment.recipes import RECIPES, recipe, table
from dataforge.errors import ConfigError

OUT = (96, 128)
README = Path(recipes.__file__).with_name("README.md")


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("flop", "unknown augmentation recipe 'flop'; known: FILE.toml, flip, lsj, none, ssd, strong, yolo"),
        ([{"op": "spin"}], "unknown augmentation 'spin'"),
        ([{"op": "flip", "q": 1}], "unknown value 'q'; known: p"),
        ([{"op": "flip", "p": "high"}], "p is 'high'; expected a number"),
        ([{"op": "flip", "p": True}], "p is True; expected a number"),
        ([{"op": "flip", "p": 1.5}], r"p is 1.5; expected 0 to 1"),
        ([{"op": "keep", "centre": 1}], "centre is 1; expected true or false"),
        ([{"op": "normalise", "mean": [0.5]}], "mean is .0.5.; expected 3 numbers"),
        ([{"op": "scale", "low": 2.0, "high": 0.5}], "low is 2.0 and high 0.5; expected low to be the smaller"),
        ([{"op": "scale", "low": 3}], "low is 3 and high 1.5"),
        ([{"op": "scale", "low": float("nan")}], "low is nan; expected 0.01 to 100"),
        ([{"p": 1}], "expected { op = NAME"),
        (["flip"], "expected { op = NAME"),
    ],
)
def test_a_wrong_recipe_is_refused(augment, words):
    with pytest.raises(ConfigError, match=words):
        recipe(augment)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = [", "cannot be read"),
        ("step = []", "holds 'step'; expected one list, 'steps'"),
        ("", "holds nothing"),
        ("steps = 3", "expected one list"),
        ('steps = [{ op = "flip", q = 1 }]', "unknown value 'q'"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "my recipe.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        recipe(str(path))
    assert "my recipe.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('steps = [\n  { op = "flip" },\n  { op = "scale", low = 0.5, high = 2 },\n]\n')
    assert list(recipe(path)) == [{"op": "flip"}, {"op": "scale", "low": 0.5, "high": 2}]
    path.write_text('[[steps]]\nop = "flip"\n')
    assert list(recipe(str(path))) == [{"op": "flip"}]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_built_in_recipes_pass_their_own_check(name):
    assert list(recipe(list(RECIPES[name]))) == list(RECIPES[name])
    assert recipe(name) is RECIPES[name]


def test_settings_are_the_last_one_s_with_defaults():
    steps = [{"op": "keep", "visible": 0.5}, {"op": "keep", "centre": True}]
    assert setting(steps, "keep") == {"visible": 0.25, "centre": True, "min_size": 0.0}
    assert setting([], "fill") == {"red": 114, "green": 114, "blue": 114}


@given(st.integers(1, 60), st.integers(0, 9), st.sampled_from(sorted(RECIPES)))
def test_parameters_do_not_depend_on_the_batch(n, seed, name):
    index = np.random.default_rng(seed).permutation(1000)[:n]
    h, w = 40 + index % 50, 60 + index % 70
    boxes = np.array([[3, 4, 30, 35]], np.float32).repeat(n, 0)
    steps, half = RECIPES[name], slice(n // 2, n)
    whole = parameters(steps, index, h, w, OUT, seed=seed, epoch=1, boxes=boxes, image=np.arange(n))
    rest = np.arange(n - n // 2)
    part = parameters(steps, index[half], h[half], w[half], OUT, seed=seed, epoch=1, boxes=boxes[half], image=rest)
    for key, value in vars(part).items():
        mine = getattr(whole, key)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(mine[half], value)
        elif key == "damage":
            for op in value:
                np.testing.assert_array_equal(mine[op][half], value[op])
        else:
            assert mine == value


def test_parameters_differ_between_records_epochs_and_seeds():
    def draw(index: int, epoch: int, seed: int) -> tuple[float, ...]:
        one = np.array([index])
        p = parameters(RECIPES["yolo"], one, one * 0 + 50, one * 0 + 70, OUT, seed=seed, epoch=epoch)
        return tuple(p.matrix.ravel())

    assert len({draw(i, e, s) for i in range(5) for e in range(5) for s in range(5)}) == 125


def test_every_operation_is_in_the_readme_as_it_is_in_the_code():
    assert table() in README.read_text("utf-8"), "dataforge/augment/README.md: put the output of recipes.table() there"
    for group in OPERATIONS.values():
        for name in group:
            assert values_of(name) is not None
