"""Save the LoRA adapters of a trained `vit`, load them onto another checkpoint, or merge them into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import Group, LocalPath, echo
from dataforge.errors import ConfigError, counted
from dataforge.files import writing

HEADS = ("pyramid.", "classify.", "regress.", "scale")  # parts of the detector that are trained with the adapters


@click.group(cls=Group)
def main() -> None:
    """Save, load or merge the LoRA adapters of a checkpoint of `python -m trainers.vit --train lora`."""


@main.command()
@click.argument("ckpt", type=click.Path(path_type=Path))
@click.argument("out", type=LocalPath())
@click.option("--heads", is_flag=True, help="The pyramid and the heads too: all that has learnt.")
def save(ckpt: Path, out: Path, heads: bool) -> None:
    """Write the adapters of CKPT to OUT (.safetensors)."""
    import safetensors.torch

    from trainers import checkpoint
    from trainers.models import lora

    state = checkpoint.load(ckpt)
    tensors = lora.adapters(state["model"])
    if not tensors:
        raise ConfigError(f"{ckpt}: has no LoRA adapters; expected a checkpoint of --train lora")
    if heads:
        tensors |= {name: tensor for name, tensor in state["model"].items() if name.startswith(HEADS)}
    facts = {"lora": state["config"]["lora"], "backbone": state["config"]["backbone"]}
    with writing(out, ConfigError):
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out, facts)
    echo(f"{out}: {counted(len(tensors), 'tensor')}, {out.stat().st_size / 1e6:.1f} MB")


@main.command()
@click.argument("ckpt", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=LocalPath())
def load(ckpt: Path, file: Path, out: Path) -> None:
    """Write CKPT, a checkpoint of --train lora, to OUT with the adapters in FILE."""
    from trainers import checkpoint
    from trainers.models import lora
    from trainers.models.pretrained import read_state

    state = checkpoint.load(ckpt)
    state.pop("calibration", None)  # of other weights
    tensors = read_state(file)
    expected = {name: state["model"][name].shape for name in lora.adapters(state["model"])}
    if not expected:
        raise ConfigError(f"{ckpt}: has no LoRA adapters; expected a checkpoint of --train lora")
    for name, shape in expected.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ConfigError(f"{file}: {name} is {found}; expected {tuple(shape)}, as in {ckpt}")
    unknown = [name for name in tensors if name not in state["model"]]
    if unknown:
        raise ConfigError(f"{file}: {unknown[0]} is no weight of {ckpt}")
    _publish(state | {"model": state["model"] | tensors}, out)


@main.command()
@click.argument("ckpt", type=click.Path(path_type=Path))
@click.argument("out", type=LocalPath())
def merge(ckpt: Path, out: Path) -> None:
    """Write CKPT to OUT with its adapters merged, so that it needs no PEFT and is as fast as without."""
    _publish(merged(ckpt), out)


def merged(ckpt: Path) -> dict[str, Any]:
    """Return a checkpoint without adapters that gives the same outputs.

    Raises:
        ConfigError: the checkpoint has no adapters.
    """
    from trainers import checkpoint
    from trainers.models import lora

    detector, state = checkpoint.load_detector(ckpt)
    if not state["config"].get("lora"):
        raise ConfigError(f"{ckpt}: has no LoRA adapters; expected a checkpoint of --train lora")
    lora.merge(detector)
    return state | {"config": state["config"] | {"lora": "", "train": "all"}, "model": detector.state_dict()}


def _publish(state: dict[str, Any], out: Path) -> None:
    """Write a checkpoint for evaluation; training cannot resume from it."""
    from trainers import checkpoint

    with writing(out, ConfigError):
        checkpoint.save(out, {name: value for name, value in state.items() if name != "train"})
    echo(str(out))


if __name__ == "__main__":
    main(prog_name="python -m trainers.adapters")
