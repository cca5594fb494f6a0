"""A plain vision transformer as a backbone: windows, sizes, positions, and weights by the names of many makers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dataforge.errors import ConfigError
from trainers.models import vit_backbone
from trainers.models.vit_backbone import PlainViT, from_windows, run_block, to_windows


def backbone(**options: Any) -> PlainViT:
    torch.manual_seed(0)
    return PlainViT("test_vit", **options).eval()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
def test_windows_are_undone(rows: int, columns: int, window: int, count: int) -> None:
    x = torch.rand(count, rows, columns, 2)
    tokens, mask = to_windows(x, window)
    assert torch.equal(from_windows(tokens, window, rows, columns), x)
    real = count * rows * columns
    assert (tokens.shape[:2].numel() if mask is None else int(mask.sum())) == real
    if mask is not None:
        assert mask.any(-1).all(), "a window without a token to attend to gives NaN"
        assert (tokens[~mask[:, 0, 0]] == 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(14, 14), (9, 13), (1, 5)])
def test_one_window_is_global_attention(rows: int, columns: int) -> None:
    block, x = backbone().blocks[0], torch.rand(2, rows, columns, 64)
    with torch.no_grad():
        torch.testing.assert_close(run_block(block, x, 14), run_block(block, x, 0), rtol=1e-4, atol=1e-5)


def test_a_padded_token_reaches_no_real_one() -> None:
    """A window at the edge gives what its real tokens alone give."""
    block, x = backbone().blocks[0], torch.rand(1, 7, 8, 64)
    with torch.no_grad():
        found = run_block(block, x, 5)
        for rows in (slice(0, 5), slice(5, 7)):
            for columns in (slice(0, 5), slice(5, 8)):
                alone = run_block(block, x[:, rows, columns], 0)
                torch.testing.assert_close(found[:, rows, columns], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ffn", ["mlp", "mix"])
@pytest.mark.parametrize("size", [(64, 96), (16, 16), (33, 250), (160, 160)])
def test_any_size(ffn: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        (found,) = backbone(ffn=ffn, window=3)(torch.rand(2, 3, *size))
    assert found.shape == (2, 64, -(-size[0] // 16), -(-size[1] // 16)) and found.isfinite().all()


def test_mix_has_no_positions_and_begins_as_the_mlp_that_it_was() -> None:
    mixed = backbone(ffn="mix", global_blocks=0, window=2)
    assert mixed.embed.position is None
    with torch.no_grad():
        (found,) = mixed(torch.ones(1, 3, 64, 64))
    torch.testing.assert_close(found, found[:, :, :1, :1].expand_as(found))  # nothing tells the tokens apart


@pytest.mark.parametrize(("blocks", "where"), [(4, {0, 2, 3, 5}), (2, {2, 5}), (6, set(range(6))), (0, set())])
def test_global_blocks_are_evenly_spaced(blocks: int, where: set[int]) -> None:
    assert backbone(global_blocks=blocks).global_blocks == where


def test_recomputing_changes_no_gradient() -> None:
    images, gradients = torch.rand(1, 3, 64, 96), []
    for recompute in (False, True):
        model = backbone(recompute=recompute, window=3)
        model(images)[0].square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_it_gives_what_timm_gives() -> None:
    """Without class token in timm's either, at its own size, all blocks global."""
    theirs = timm.create_model("test_vit", num_classes=0, class_token=False, global_pool="", no_embed_class=True).eval()
    ours = backbone(global_blocks=6)
    state = {vit_backbone._timm_name(name): name for name in ours.state_dict() if name not in ("mean", "std")}
    position = theirs.pos_embed.unflatten(1, theirs.patch_embed.grid_size).permute(0, 3, 1, 2)
    named = {own: theirs.state_dict()[name] for name, own in state.items() if name != "embed.position"}
    ours.load_state_dict(named | {"embed.position": position, "mean": ours.mean, "std": ours.std})
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        expected = theirs.forward_features((images - ours.mean) / ours.std).mT.unflatten(2, (10, 10))
        torch.testing.assert_close(ours(images)[0], expected, rtol=1e-4, atol=1e-5)


def openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A timm state dict under the names of CLIP's own code, with some of its text tower."""
    found: dict[str, Tensor] = {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    for name, tensor in state.items():
        name = name.replace("patch_embed.proj", "conv1").replace("norm_pre", "ln_pre")
        name = re.sub(r"^norm\.", "ln_post.", name)
        name = re.sub(r"blocks\.(\d+)\.", r"transformer.resblocks.\1.", name).replace("norm", "ln_")
        name = name.replace("attn.qkv.", "attn.in_proj_").replace("attn.proj", "attn.out_proj")
        name = name.replace("fc1", "c_fc").replace("fc2", "c_proj")
        if name == "pos_embed":
            name, tensor = "positional_embedding", tensor[0]
        if name == "cls_token":
            name, tensor = "class_embedding", tensor[0, 0]
        found[f"visual.{name}"] = tensor
    return found


def dinov2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "mask_token": torch.zeros(1, 64)}


def open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"visual.trunk.{name}": tensor for name, tensor in state.items()} | {"text.token": torch.ones(2)}


@pytest.mark.parametrize("names", [dict, openai_names, open_clip_names, dinov2_names])
def test_weights_by_the_names_of_many_makers(names: Any, tmp_path: Path) -> None:
    theirs, ours = timm.create_model("test_vit", num_classes=0), backbone()
    torch.save(names(theirs.state_dict()), tmp_path / "w.pt")
    text = ours.load(str(tmp_path / "w.pt"))
    assert "tensors loaded by name" in text
    for name, tensor in ours.state_dict().items():
        if name not in ("mean", "std", "embed.position"):
            assert torch.equal(tensor, theirs.state_dict()[vit_backbone._timm_name(name)]), name
    assert torch.equal(ours.embed.position.flatten(2).mT, theirs.pos_embed[:, 1:])  # type: ignore[union-attr]


def test_another_grid_and_patch_are_resampled(tmp_path: Path) -> None:
    theirs = timm.create_model("test_vit", num_classes=0, patch_size=14, img_size=224)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    ours = backbone()
    ours.load(str(tmp_path / "w.pt"))
    assert ours.embed.position is not None and ours.embed.position.shape == (1, 64, 10, 10)
    assert torch.equal(ours.blocks[5].mlp.fc2.weight, theirs.blocks[5].mlp.fc2.weight)  # type: ignore[union-attr]


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    state, path = timm.create_model("test_vit", num_classes=0).state_dict(), str(tmp_path / "w.pt")
    torch.save({k: v for k, v in state.items() if "blocks.5" not in k} | {"extra.weight": torch.ones(1)}, path)
    with pytest.raises(ConfigError, match=r"12 of \d+ weights are missing: blocks\.5.*left over: extra\.weight"):
        backbone().load(path)
    torch.save({**state, "norm.weight": torch.ones(3)}, path)
    with pytest.raises(ConfigError, match=r"norm\.weight is \(3,\); expected \(64,\)"):
        backbone().load(path)
    with pytest.raises(ConfigError, match="no such file"):
        backbone().load(str(tmp_path / "none.pt"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_relpos_small_patch16_224", {}, "'vit_relpos_small_patch16_224'"),
        ("eva02_tiny_patch14_224", {}, "'eva02_tiny_patch14_224'"),
        ("vit_tiny_patch17", {}, "unknown backbone"),
        ("resnet10t", {"ffn": "mix"}, "no plain vision transformer"),
        ("test_vit", {"global_blocks": 7}, "expected 0 to 6"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vit_backbone.build(name, **options)


def test_patches_of_14_pixels_become_16() -> None:
    with torch.no_grad():
        (found,) = PlainViT("vit_small_patch14_dinov2", global_blocks=1)(torch.rand(1, 3, 32, 64))
    assert found.shape == (1, 384, 2, 4)


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet10t"])
def test_a_convolutional_backbone_ends_at_its_map(name: str) -> None:
    model = vit_backbone.build(name)
    (found,) = model(torch.rand(1, 3, 64, 96))
    assert found.shape == (1, *model.channels, 4, 6)
    found.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
