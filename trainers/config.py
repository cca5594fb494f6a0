"""Run configuration: a flat dataclass, read from TOML and from flags of the same names."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from dataforge.errors import ConfigError
from dataforge.files import reading
from dataforge.sources.view import View

RANGES = ("area", "side")  # two numbers each
LOGGERS = ("tensorboard", "wandb", "mlflow")  # package names


BOUNDS = {  # of a number, or of each number of a list: description and test
    "above": ("above", operator.gt),
    "least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "most": ("at most", operator.le),
}


def value(default: Any, text: str, **bounds: float) -> Any:
    """Return a field with its help text and the bounds of its numbers.

    Args:
        bounds: any of "above", "least", "below" and "most".
    """
    make = (lambda: list(default)) if isinstance(default, list) else None
    keywords: dict[str, Any] = {"default_factory": make} if make else {"default": default}
    return field(**keywords, metadata={"help": text, "bounds": bounds})


@dataclass
class Config:
    """Values common to all trainers. A subclass adds those of a detector."""

    shards: str = value("", "folder written by `dataforge ingest`")
    name: str = value("", "name of the run; empty for the next free one of exp, exp2, ...")
    runs: str = value("runs", "output folder; a run is written to runs/<detector>/<name> in it")
    train_split: str = value("train", "split to train on")
    val_split: str = value("val", "split to evaluate on; empty to skip")
    classes: list[str] = value([], "only these classes, in this order; none for all")
    area: list[float] = value([], "minimum,maximum: only objects of this area, in square pixels of the source image")
    side: list[float] = value(
        [], "minimum,maximum: only boxes whose shorter side has this length, in pixels of the source image"
    )
    empty: str = value("keep", "keep or drop images without boxes")
    size: list[int] = value([416, 416], "network input, height,width (or one number)")
    fit: str = value("letterbox", "letterbox or stretch")
    buckets: str = value(
        "", "train at several sizes, chosen by aspect ratio: auto (with the area of size), or h,w,h,w,..."
    )
    multiscale: list[float] = value([], "low,high: every 10 steps draw a factor of the size, in steps of 32 pixels")
    augment: str = value("yolo", "augmentation recipe")
    sampling: str = value("none", "none, or repeat-factor: repeat images of rare classes within an epoch")
    repeat_threshold: float = value(
        0.001, "with repeat-factor: fraction of images below which a class is rare", above=0
    )
    on_error: str = value(
        "raise", "raise an error at a damaged image, or skip it: a grey image without boxes, listed after each epoch"
    )
    epochs: int = value(160, "passes over the training split", least=1)
    batch_size: int = value(16, "images per step, over all processes", least=1)
    budget: int = value(0, "instead of batch_size: pixels per step, over all processes; 0 for none", least=0)
    accumulate: int = value(1, "number of parts in which a step's images are processed, to save memory", least=1)
    optimizer: str = value("sgd", "sgd or adamw")
    lr: float = value(1e-3, "learning rate", least=0, below=math.inf)
    bias_lr: float = value(1.0, "factor of the learning rate of biases (not those of norms)", least=0, below=math.inf)
    layer_decay: float = value(
        1.0, "factor of the learning rate per backbone unit, from the last to the first", above=0, most=1
    )
    momentum: float = value(0.9, "SGD's momentum, AdamW's first beta", least=0, below=1)
    weight_decay: float = value(5e-4, "weight decay of weights; biases and norms have none", least=0, below=math.inf)
    schedule: str = value("step", "step (x0.1 at milestones), cosine or constant")
    milestones: list[int] = value([60, 90], "epochs at which the learning rate drops", least=0)
    warmup_steps: int = value(100, "steps over which the learning rate grows from 0", least=0)
    amp: str = value("none", "none, bf16 or fp16")
    ema: float = value(
        0.9998,
        "decay of the exponential moving average (EMA) of the weights, which is evaluated; 0 for none",
        least=0,
        below=1,
    )
    compile: bool = value(False, "compile the network with torch.compile, once for each batch shape")
    clip: float = value(10.0, "clip the gradient to this norm; 0 for none", least=0)
    seed: int = value(0, "seed of initial weights, order and augmentation", least=0)
    device: str = value("auto", "auto, cpu, cuda, cuda:1, ...")
    threads: int = value(0, "decoding threads; 0 for one per core", least=0)
    decode: str = value("host", "host, or device to decode JPEGs on a CUDA device")
    cache: bool = value(False, "train from a cache beside the shards with images shrunk to the training size")
    keep: int = value(4, "number of newest checkpoints to keep", least=1)
    save_steps: int = value(0, "also save every N steps; 0 saves at the end of an epoch only", least=0)
    eval_every: int = value(1, "epochs between evaluations; the last epoch is always evaluated", least=1)
    patience: int = value(0, "stop after this many evaluations without a better mAP50-95; 0 never stops early", least=0)
    logger: str = value("tensorboard", "tensorboard, wandb or mlflow")
    profile: bool = value(False, "write trace.json of three steps, for chrome://tracing or Perfetto")

    def check(self) -> None:
        """Validate the values.

        Raises:
            ConfigError: a value is invalid; the message names the key, its value and what was expected.
        """
        choices = {
            "fit": ("letterbox", "stretch"),
            "sampling": ("none", "repeat-factor"),
            "on_error": ("raise", "skip"),
            "decode": ("host", "device"),
            "optimizer": ("sgd", "adamw"),
            "schedule": ("step", "cosine", "constant"),
            "amp": ("none", "bf16", "fp16"),
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise ConfigError(f"{key} is {getattr(self, key)!r}; expected one of {', '.join(known)}")
        for item in dataclasses.fields(self):
            given, bounds = getattr(self, item.name), item.metadata["bounds"]
            numbers = given if isinstance(given, list) else [given]
            if not all(BOUNDS[key][1](number, bound) for key, bound in bounds.items() for number in numbers):
                expected = " and ".join(f"{BOUNDS[key][0]} {bound}" for key, bound in bounds.items())
                raise ConfigError(f"{item.name} is {given}; expected {expected}")
        if len(self.size) == 1:
            self.size = self.size * 2
        if len(self.size) != 2 or min(self.size) < 32:
            raise ConfigError(f"size is {self.size}; expected height,width of at least 32")
        if self.multiscale and (len(self.multiscale) != 2 or not 0 < self.multiscale[0] <= self.multiscale[1] <= 4):
            raise ConfigError(f"multiscale is {self.multiscale}; expected two factors of the size, such as 0.75,1.45")
        if self.accumulate > self.batch_size and not self.budget:
            raise ConfigError(f"accumulate is {self.accumulate}; expected at most batch_size, {self.batch_size}")
        if self.patience and not self.val_split:
            raise ConfigError(f"patience is {self.patience}; expected 0, or a val_split to evaluate")
        check_logger(self.logger)
        self.shapes()
        if not self.shards:
            raise ConfigError("shards is not set; pass --shards DIR (made by `dataforge ingest`)")
        self.view()

    def shapes(self) -> list[tuple[int, int]] | str | None:
        """Return the (height, width) of each bucket in `buckets`, "auto", or None without buckets.

        Raises:
            ConfigError: `buckets` is neither pairs of numbers nor "auto".
        """
        if self.buckets in ("", "auto"):
            return self.buckets or None
        try:
            sides = [int(side) for side in self.buckets.split(",")]
        except ValueError:
            sides = []
        if not sides or len(sides) % 2 or min(sides) < 32:
            raise ConfigError(
                f"buckets is {self.buckets!r}; expected auto, or heights and widths such as 320,416,416,320"
            )
        return list(zip(sides[::2], sides[1::2], strict=True))

    def view(self) -> View:
        """Return the part of the shards that is used in training and validation.

        Raises:
            ConfigError: one of its values is invalid.
        """
        area, side = (tuple(bounds) or None for bounds in (self.area, self.side))
        return View(tuple(self.classes), area, side, empty=self.empty)  # type: ignore[arg-type]


def read_toml(kind: type[Config], path: Path) -> dict[str, Any]:
    """Read the values in a TOML file and check them against a configuration's fields.

    Raises:
        ConfigError: the file is not readable or not TOML, a key is unknown, or a value has the wrong type.
    """
    try:
        with reading(path, ConfigError):
            values = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    types = get_type_hints(kind)
    for key, given in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1)
            raise ConfigError(f"{path}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        item_type = (get_args(types[key]) or [types[key]])[0]
        items = given if isinstance(given, list) else [given]
        known = (int, float) if item_type is float else (item_type,)
        if isinstance(given, list) != bool(get_args(types[key])) or any(type(item) not in known for item in items):
            expected = types[key] if get_args(types[key]) else item_type.__name__
            raise ConfigError(f"{path}: {key} is {given!r}; expected {expected}")
        items = [item_type(item) for item in items]
        values[key] = items if isinstance(given, list) else items[0]
    return values


def write_toml(config: Config, path: Path) -> None:
    """Write all values to a file that `--config` can read."""
    plain = {key: json.dumps(value, ensure_ascii=False) for key, value in vars(config).items()}
    plain |= {key: str(getattr(config, key)) for key in RANGES}  # JSON spells inf differently
    lines = [f"{key} = {value}" for key, value in plain.items()]
    path.write_text("\n".join(lines) + "\n", "utf-8")


class _List(click.ParamType):
    """Comma-separated numbers or names."""

    def __init__(self, kind: type[int] | type[float] | type[str]) -> None:
        self.kind, self.name = kind, "NAME,NAME" if kind is str else "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        try:
            return [self.kind(item) for item in str(value).split(",") if item]
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.kind.__name__}, such as 320,416", param, ctx)


def _as_list(context: click.Context, param: click.Parameter, pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)


def options(kind: type[Config]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator with Click options for all fields of a configuration; a flag that is not given is None."""
    types, defaults = get_type_hints(kind), kind()

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(dataclasses.fields(kind)):
            shown = getattr(defaults, item.name)
            text = f"{item.metadata['help']}  [{','.join(map(str, shown)) if isinstance(shown, list) else shown}]"
            flag, listed = item.name.replace("_", "-"), get_args(types[item.name])
            if types[item.name] is bool:
                command = click.option(f"--{flag}/--no-{flag}", default=None, help=text)(command)
                continue
            how: dict[str, Any] = {"type": _List(listed[0]) if listed else types[item.name]}
            if item.name in RANGES:
                how = {"type": float, "nargs": 2, "metavar": "MIN MAX", "callback": _as_list}
            command = click.option(f"--{flag}", help=text, **how)(command)
        return command

    return decorate


def check_logger(name: str) -> None:
    """Check that a logger is known and installed.

    Raises:
        ConfigError: the logger is not known or not installed; the message names the package to install.
    """
    if name not in LOGGERS:
        raise ConfigError(f"logger is {name!r}; expected one of {', '.join(LOGGERS)}")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"logger is {name!r}, which is not installed; pip install {name}")
