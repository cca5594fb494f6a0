"""Legend: B images, H x W pixels, h x w patches (tokens), D channels.

A plain vision transformer as a backbone that takes images of any size (Li et al., "Exploring Plain Vision Transformer
Backbones for Object Detection", ViTDet, arXiv 2203.16527). It uses timm's layers with its own forward pass.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Attention, Mlp  # type: ignore[attr-defined]
from timm.models import is_model_in_modules
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dataforge.errors import ConfigError, first_line
from trainers.models import pretrained
from trainers.models.backbones import Backbone, Timm

PATCH = 16
_MODULES = {"vision_transformer", "deit"}  # timm modules whose models have the layers used here
_UNUSED = ("cls_token", "reg_token", "head.", "head_dist.", "dist_token", "fc_norm.")  # not part of a map


class MixFFN(nn.Module):
    """MLP with a 3x3 depth-wise convolution whose zero padding provides positional information (Xie et al.,
    "SegFormer", arXiv 2105.15203, equation 3). The convolution is initialised to the identity, so that the outputs of
    pretrained layers are unchanged.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.act, mlp.fc2
        width = mlp.fc1.out_features
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.dirac_(self.conv.weight, groups=width)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, D) to the same shape."""
        x = self.conv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(self.act(x))


class Embedding(nn.Module):
    """Patch embedding, with a position embedding resampled from its own grid to that of the images."""

    position: nn.Parameter | None

    def __init__(self, net: VisionTransformer, position: bool) -> None:
        super().__init__()
        self.patch, self.patch_norm, self.norm = net.patch_embed.proj, net.patch_embed.norm, net.norm_pre
        self.position = _positions(net) if position else None

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, h, w, D); sides that are not a multiple of the patch size are padded with zeros."""
        height, width = images.shape[2:]
        x = self.patch(functional.pad(images, (0, -width % PATCH, 0, -height % PATCH)))
        x = self.patch_norm(x.permute(0, 2, 3, 1))
        if self.position is not None:
            position = functional.interpolate(self.position, x.shape[1:3], mode="bicubic", align_corners=False)
            x = x + position.permute(0, 2, 3, 1)
        return self.norm(x)


class PlainViT(Backbone):
    """timm's vision transformer up to its last norm: one map of stride 16.

    Class and register tokens are removed, since windows do not contain them (as in ViTDet). A model with
    another patch size gets patches of 16 pixels; its weights are resampled when they are loaded.

    Args:
        name: of a timm model whose blocks are pre-norm attention and MLP: CLIP, DINOv2, DeiT, AugReg, MAE.
        ffn: "mlp", or "mix" for `MixFFN` without position embedding.
        window: side of the windows within which most blocks attend, in tokens.
        global_blocks: number of blocks that attend globally, evenly spaced, including the last one.
        drop_path: probability per image of dropping the last block's branches in training; lower for earlier blocks.
        recompute: recompute activations within blocks in the backward pass, to save memory.

    Raises:
        ConfigError: the model has an unsupported architecture.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        ffn: str = "mlp",
        window: int = 14,
        global_blocks: int = 4,
        drop_path: float = 0.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        net = _net(name, pretrained=False, drop_path_rate=drop_path)
        self.name, self.window, self.recompute = name, window, recompute
        self.channels = (net.embed_dim,)
        self.embed = Embedding(net, position=ffn == "mlp")
        self.blocks, self.norm = nn.ModuleList(net.blocks), net.norm
        if ffn == "mix":
            for block in self.blocks:
                if type(block.mlp) is not Mlp:
                    raise ConfigError(f"ffn is 'mix', but {name!r} has {type(block.mlp).__name__}; expected Mlp")
                block.mlp = MixFFN(block.mlp)
        depth = len(self.blocks)
        if not 0 <= global_blocks <= depth:
            raise ConfigError(f"global_blocks is {global_blocks}; expected 0 to {depth}, the blocks of {name!r}")
        self.global_blocks = {depth * (i + 1) // global_blocks - 1 for i in range(global_blocks)}
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(net.pretrained_cfg[key]).view(-1, 1, 1))

    def units(self) -> list[nn.Module]:
        return [self.embed, *self.blocks, self.norm]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.embed((images - self.mean) / self.std)
        for i, block in enumerate(self.blocks):
            window = 0 if i in self.global_blocks else self.window
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(run_block, block, x, window, use_reentrant=False)
            else:
                x = run_block(block, x, window)
        return (self.norm(x).permute(0, 3, 1, 2),)

    def load(self, source: str) -> str:
        """Load pretrained weights.

        Args:
            source: a file with the names of OpenAI's CLIP, open_clip, timm or DINOv2; "true" for timm's own default
                weights, or the tag of others, which timm downloads.

        Returns:
            A description of what was loaded and what was not used.

        Raises:
            ConfigError: weights are missing or do not match; the message names them.
        """
        if pretrained.is_file(source):
            net, text = _load_file(self.name, Path(source))
        else:
            name = pretrained.tagged(self.name, source)
            net = _net(name, pretrained=True)
            for key in ("mean", "std"):
                getattr(self, key).copy_(torch.tensor(net.pretrained_cfg[key]).view(-1, 1, 1))
            text = f"timm's {name}"
        state = net.state_dict() | {"embed.position": _positions(net)}
        own = self.state_dict()
        found = {name: state[theirs] for name in own if (theirs := _timm_name(name)) in state}
        self.load_state_dict(own | found)
        return text


def run_block(block: Any, x: Tensor, window: int) -> Tensor:
    """Run a block on (B, h, w, D) with attention within windows of `window` tokens per side, or globally for 0.

    A window that covers the map is not padded to its full size; the result is the same.
    """
    y = block.norm1(x)
    if 0 < window < max(x.shape[1:3]):
        tokens, mask = to_windows(y, window)
        y = from_windows(block.attn(tokens, attn_mask=mask), window, x.shape[1], x.shape[2])
    else:
        y = block.attn(y.flatten(1, 2)).view(x.shape)
    x = x + block.drop_path1(block.ls1(y))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def to_windows(x: Tensor, window: int) -> tuple[Tensor, Tensor | None]:
    """Split a map into square windows, padded at the right and at the bottom.

    Args:
        x: (B, h, w, D).

    Returns:
        Tokens (B * windows, window * window, D), and the attention mask (B * windows, 1, 1, window * window) bool,
        False for padding. None without padding.
    """
    count, rows, columns = x.shape[:3]
    down, right = -rows % window, -columns % window
    x = functional.pad(x, (0, 0, 0, right, 0, down))
    tokens = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3).flatten(3, 4).flatten(0, 2)
    if not down and not right:
        return tokens, None
    real = functional.pad(x.new_ones(rows, columns, dtype=torch.bool), (0, right, 0, down))
    mask = real.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).reshape(-1, window * window)
    return tokens, mask.repeat(count, 1)[:, None, None]


def from_windows(tokens: Tensor, window: int, rows: int, columns: int) -> Tensor:
    """Invert `to_windows`: (B * windows, window * window, D) -> (B, rows, columns, D)."""
    down, across = -(-rows // window), -(-columns // window)
    x = tokens.view(-1, down, across, window, window, tokens.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :rows, :columns]


def build(name: str, *, ffn: str = "mlp", **options: Any) -> Backbone:
    """Build a backbone with random weights and one map of stride 16.

    Args:
        name: a vision transformer of timm, or any other model of timm with such a map.
        ffn, options: as in `PlainViT`; not for other models.

    Raises:
        ConfigError: the model does not exist or is not supported.
    """
    if is_model_in_modules(name.partition(".")[0], _MODULES):
        return PlainViT(name, ffn=ffn, **options)
    if ffn != "mlp":
        raise ConfigError(f"ffn is {ffn!r}, but backbone {name!r} is no plain vision transformer; expected mlp")
    return Timm(name, (PATCH,), whole=False)


def _net(name: str, *, pretrained: bool, **options: Any) -> Any:
    """Return timm's model.

    Raises:
        ConfigError: the model does not exist, is not supported, or its weights are not available.
    """
    try:
        net = timm.create_model(name, pretrained=pretrained, patch_size=PATCH, num_classes=0, **options)
    except Exception as error:  # timm raises various exceptions: no such tag, an unsupported option, no network
        what = "its pretrained weights cannot be had" if pretrained else "cannot be built with patches of 16 pixels"
        hint = "; pass a file by --pretrained FILE, or --train all --pretrained '' to start anew" if pretrained else ""
        raise ConfigError(f"backbone {name!r}: {what}: {first_line(error)}{hint}") from None
    kinds = {type(net)} | {type(block) for block in getattr(net, "blocks", [])}
    kinds |= {type(block.attn) for block in getattr(net, "blocks", []) if hasattr(block, "attn")}
    if not isinstance(net, VisionTransformer) or not kinds <= {type(net), Block, Attention}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(
            f"backbone {name!r}: is made of {names}; expected a plain vision transformer (timm's VisionTransformer "
            "with Block and Attention), or a convolutional network with a map of stride 16"
        )
    return net


def _timm_name(name: str) -> str:
    """Return timm's name of a weight of `PlainViT`, with or without adapters."""
    for ours, theirs in (("embed.patch.", "patch_embed.proj."), ("embed.patch_norm.", "patch_embed.norm."),
                         ("embed.norm.", "norm_pre."), (".base_layer.", ".")):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _positions(net: VisionTransformer) -> nn.Parameter | None:
    """Return the position embedding of the patches, (1, D, rows, columns)."""
    if net.pos_embed is None:
        return None
    rows, columns = net.patch_embed.grid_size
    value = net.pos_embed[:, net.pos_embed.shape[1] - rows * columns :]
    return nn.Parameter(value.detach().unflatten(1, (rows, columns)).permute(0, 3, 1, 2).contiguous())


def _load_file(name: str, path: Path) -> tuple[VisionTransformer, str]:
    """Return timm's model with the weights of a file whose names timm can map, and a description of what was loaded.

    Raises:
        ConfigError: tensors are missing or have another shape.
    """
    given = pretrained.read_state(path)
    # Class and register tokens are not used here, so that the file need not have the model's number of them.
    bare = "register_tokens" in given or _is_square(given.get("pos_embed"))
    net = _net(name, pretrained=False, no_embed_class=bare, reg_tokens=0)
    try:
        state = checkpoint_filter_fn(dict(given), net)
    except (RuntimeError, KeyError, ValueError, AssertionError, IndexError) as error:
        raise ConfigError(f"{path}: does not fit backbone: {first_line(error)}") from None
    own = net.state_dict()
    wanted = [name for name in own if not name.startswith(_UNUSED)]
    missing = [name for name in wanted if name not in state]
    left = [name for name in state if name not in own and not name.startswith(_UNUSED)]
    rest = f"; left over: {_names(left)}" if left else ""
    if missing:
        raise ConfigError(f"{path}: {len(missing)} of {len(wanted)} weights are missing: {_names(missing)}{rest}")
    for name in wanted:
        if state[name].shape != own[name].shape:
            raise ConfigError(
                f"{path}: {name} is {tuple(state[name].shape)}; expected {tuple(own[name].shape)}, as the backbone has"
            )
    net.load_state_dict({name: state[name] for name in wanted}, strict=False)
    openai = any(name.endswith("visual.class_embedding") for name in given)
    gelu = any(isinstance(layer, nn.GELU) for layer in net.modules())
    note = "; if these are OpenAI's own weights, they want the QuickGELU of the timm models named so" if openai else ""
    return net, f"{path}: {len(wanted)} tensors loaded by name{rest}{note if gelu else ''}"


def _is_square(positions: Tensor | None) -> bool:
    """Return whether an embedding (1, N, D) has the N of a square grid, and so none for other tokens."""
    return positions is not None and positions.ndim == 3 and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]


def _names(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)})"
