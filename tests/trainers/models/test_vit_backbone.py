"""A plain vision transformer as a backbone: windows, sizes, positions, and weights by the names of many makers."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

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


def test_recomputing_runs_blocks_again_and_changes_no_gradient() -> None:
    """With drop-path too: the second pass must drop what the first one did."""
    images, gradients, passes = torch.rand(4, 3, 64, 96), [], []
    for recompute in (False, True):
        model = backbone(recompute=recompute, window=3, drop_path=0.5).train()
        calls: list[object] = []
        model.blocks[2].mlp.register_forward_hook(lambda *_, calls=calls: calls.append(1))  # type: ignore[union-attr]
        torch.manual_seed(1)
        model(images)[0].square().sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
        passes.append(len(calls))
    assert passes == [1, 2]
    torch.testing.assert_close(*gradients)


def test_drop_path_leaves_out_branches_in_training_alone() -> None:
    """Each image keeps a branch, scaled up, or loses it whole; the first block loses none, the last one the most."""
    model, x = backbone(drop_path=0.5), torch.rand(64, 2, 2, 64)
    last = model.blocks[5]
    with torch.no_grad():
        torch.testing.assert_close(run_block(last, x, 0), run_block(backbone().blocks[5], x, 0))
        model.train()
        torch.testing.assert_close(run_block(model.blocks[0], x, 0), run_block(backbone().blocks[0], x, 0))
        last.mlp.fc2.weight.zero_(), last.mlp.fc2.bias.zero_()  # type: ignore[union-attr, operator]
        branch = last.attn(last.norm1(x).flatten(1, 2)).view(x.shape)  # type: ignore[operator]
        factors = (run_block(last, x, 0) - x).flatten(1).norm(dim=1) / branch.flatten(1).norm(dim=1)
    kept = factors > 1
    torch.testing.assert_close(factors, torch.where(kept, 2.0, 0.0), rtol=1e-3, atol=1e-3)
    assert 16 < kept.sum() < 48


@pytest.mark.parametrize("window", [0, 3])
def test_attention_is_fused_and_equals_the_plain_one(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's attention calls torch's fused operator, with the windows' mask, in float32 and in bfloat16."""
    block, x, calls = backbone().blocks[0], torch.rand(2, 4, 5, 64), []
    fused = functional.scaled_dot_product_attention

    def counted(*inputs: Tensor, **options: Any) -> Tensor:
        calls.append(options["attn_mask"])
        return fused(*inputs, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        found = run_block(block, x, window)
        assert len(calls) == 1 and (calls[0] is None) == (window == 0)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = run_block(block, x, window)
        block.attn.fused_attn = False  # type: ignore[union-attr]
        expected = run_block(block, x, window)
    assert len(calls) == 2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert rounded.dtype == torch.float32, "the residual stream keeps its precision"
    assert not rounded.equal(found)
    torch.testing.assert_close(rounded, found, rtol=0, atol=0.03 * float(found.abs().max()))


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


class Block(nn.Module):
    """A block of OpenAI's CLIP (openai/CLIP, clip/model.py, ResidualAttentionBlock), also of open_clip's own towers."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__()
        self.attn, self.ln_1 = nn.MultiheadAttention(width, width // 64, batch_first=True), nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": act, "c_proj": nn.Linear(4 * width, width)}
        self.mlp, self.ln_2 = nn.Sequential(OrderedDict(layers)), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class CLIPTower(nn.Module):
    """CLIP's vision transformer, with its names and shapes; forward leaves the class token out, as ours does."""

    def __init__(self, width: int, depth: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 16, 16, bias=False)
        self.class_embedding, self.proj = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width, 512))
        self.positional_embedding = nn.Parameter(torch.randn(14 * 14 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(width, act) for _ in range(depth)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).mT + self.positional_embedding[1:]
        x = self.ln_post(self.transformer.resblocks(self.ln_pre(x)))  # type: ignore[operator]
        return x.mT.unflatten(2, (14, 14))


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def with_text_tower(visual: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """A whole CLIP's state dict: what is not `visual.` is not ours."""
    state = {f"visual.{name}": tensor.half() if half else tensor for name, tensor in visual.state_dict().items()}
    text = {"positional_embedding": torch.randn(77, 8), "text_projection": torch.randn(8, 512)}
    text |= {
        "transformer.resblocks.0.attn.in_proj_weight": torch.randn(24, 8),
        "token_embedding.weight": torch.ones(9, 8),
    }
    return {**text, "ln_final.weight": torch.ones(8), "logit_scale": torch.ones(()), **state}


class DINOv2(nn.Module):
    """DINOv2's vision transformer (facebookresearch/dinov2, dinov2/models/vision_transformer.py) with its names and
    shapes; forward leaves class and register tokens out, as ours does.
    """

    def __init__(self, width: int, depth: int, registers: int) -> None:
        super().__init__()
        self.width, self.depth, draw = width, depth, torch.Generator().manual_seed(0)
        self.state: dict[str, Tensor] = {}
        if registers:
            self.state["register_tokens"] = torch.randn(1, registers, width, generator=draw)
        wide = {"norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,)}
        wide |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        layers = {"patch_embed.proj": (width, 3, 14, 14), "norm": (width,)}
        layers |= {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in wide.items()}
        for name, shape in layers.items():
            self.state[f"{name}.weight"] = torch.randn(shape, generator=draw) * 0.05 + ("norm" in name)
            self.state[f"{name}.bias"] = torch.randn(shape[0], generator=draw) * 0.05
        for i in range(depth):
            for name in ("ls1", "ls2"):
                self.state[f"blocks.{i}.{name}.gamma"] = torch.rand(width, generator=draw)
        for name, shape in (("cls_token", (1, 1)), ("pos_embed", (1, 37 * 37 + 1)), ("mask_token", (1,))):
            self.state[name] = torch.randn(*shape, width, generator=draw)

    def forward(self, images: Tensor, position: Tensor) -> Tensor:
        """Map images of 14-pixel patches to (B, D, h, w).

        Args:
            position: (1, D, h, w).
        """

        def linear(x: Tensor, name: str) -> Tensor:
            return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

        def norm(x: Tensor, name: str) -> Tensor:
            weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
            return functional.layer_norm(x, (self.width,), weight, bias, 1e-6)

        weight, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        x = (functional.conv2d(images, weight, bias, 14) + position).flatten(2).mT
        for i in range(self.depth):
            qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").unflatten(2, (3, -1, 64))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + self.state[f"blocks.{i}.ls1.gamma"] * linear(y, f"blocks.{i}.attn.proj")
            y = functional.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
            x = x + self.state[f"blocks.{i}.ls2.gamma"] * linear(y, f"blocks.{i}.mlp.fc2")
        return norm(x, "norm").mT.unflatten(2, position.shape[2:])


def loaded(name: str, state: dict[str, Tensor], path: Path) -> tuple[PlainViT, str]:
    """A backbone whose blocks all attend globally, with the weights of a file."""
    torch.save(state, path)
    model = PlainViT(name, global_blocks=0, window=64).eval()
    return model, model.load(str(path))


@pytest.mark.parametrize(
    ("name", "width", "depth", "act", "half"),
    [
        ("vit_xsmall_patch16_clip_224", 256, 10, nn.GELU(), False),  # open_clip's own tower
        pytest.param(
            "vit_base_patch16_clip_quickgelu_224", 768, 12, QuickGELU(), True, marks=pytest.mark.slow
        ),  # OpenAI's ViT-B/16, stored in half precision
    ],
)
def test_clips_names_give_clips_features(
    name: str, width: int, depth: int, act: nn.Module, half: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = CLIPTower(width, depth, act).eval()
    if half:
        theirs.half().float()
    ours, text = loaded(name, with_text_tower(theirs, half=half), tmp_path / "w.pt")
    assert "left over" not in text and ("QuickGELU" in text) == (not half)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs((images - ours.mean) / ours.std)
        torch.testing.assert_close(ours(images)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"])
def test_dinov2s_names_give_dinov2s_features(registers: int, name: str, tmp_path: Path) -> None:
    """The patch weights are resampled from 14 to 16 pixels such that an image whose patches are enlarged so gives the
    same tokens. A file fits the models with registers and without, since they are not used.
    """
    theirs = DINOv2(384, 12, registers)
    ours, text = loaded(name, theirs.state, tmp_path / "w.pt")
    assert "left over" not in text
    images = torch.rand(2, 3, 2 * 14, 3 * 14)
    patches = images.unflatten(3, (3, 14)).unflatten(2, (2, 14)).transpose(3, 4)  # (2, 3, 2, 3, 14, 14)
    larger = functional.interpolate(patches.flatten(0, 3).unsqueeze(1), (16, 16), mode="bicubic", antialias=True)
    enlarged = larger.view(2, 3, 2, 3, 16, 16).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    position = theirs.state["pos_embed"][:, 1:].mT.unflatten(2, (37, 37))
    position = functional.interpolate(position, (32, 32), mode="bicubic", antialias=True)  # 518 pixels are 32 patches
    position = functional.interpolate(position, (2, 3), mode="bicubic")
    with torch.no_grad():
        expected = theirs(images, position)
        torch.testing.assert_close(ours(enlarged * ours.std + ours.mean)[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prefix", ["", "visual.trunk."])
def test_timms_names_also_within_open_clip(prefix: str, tmp_path: Path) -> None:
    theirs = timm.create_model("test_vit", num_classes=0)
    state = {f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}
    ours, text = loaded(
        "test_vit", state | {"text.token_embedding.weight": torch.ones(2)} if prefix else state, tmp_path / "w.pt"
    )
    assert "left over" not in text
    for name, tensor in ours.state_dict().items():
        if name not in ("mean", "std", "embed.position"):
            assert torch.equal(tensor, theirs.state_dict()[vit_backbone._timm_name(name)]), name
    assert torch.equal(ours.embed.position.flatten(2).mT, theirs.pos_embed[:, 1:])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "state", "lost", "named"),
    [
        ("vit_xsmall_patch16_clip_224", "clip", "transformer.resblocks.9.ln_2.bias", r"blocks\.9\.norm2\.bias"),
        ("vit_xsmall_patch16_clip_224", "clip", "positional_embedding", "pos_embed"),
        ("vit_small_patch14_reg4_dinov2", "dinov2", "blocks.3.ls2.gamma", r"blocks\.3\.ls2\.gamma"),
    ],
)
def test_a_missing_and_a_strange_name_are_named(name: str, state: str, lost: str, named: str, tmp_path: Path) -> None:
    if state == "clip":
        given = with_text_tower(CLIPTower(256, 10, nn.GELU()), half=False)
        del given[f"visual.{lost}"]
        given["visual.adapter.weight"] = torch.ones(1)
    else:
        given = DINOv2(384, 12, 4).state
        del given[lost]
        given["adapter.weight"] = torch.ones(1)
    with pytest.raises(ConfigError, match=rf"1 of \d+ weights are missing: {named} \(1\); left over: adapter\.weight"):
        loaded(name, given, tmp_path / "w.pt")


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
