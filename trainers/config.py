"""Run configuration: a flat dataclass, read from TOML and from flags of the same names."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from dataforge.cloud.path import located
from dataforge.command import NEAR, Number, Option, is_url, natural, real
from dataforge.errors import TRAIN, ConfigError, UnknownNameError, unknown
from dataforge.files import exists, reading
from dataforge.loading.shuffle import window_of
from dataforge.sources.view import View

RANGES = ("area", "side")  # two numbers each
RANGE = real(least=0, infinite=True)
LOGGERS = ("tensorboard", "wandb", "mlflow")  # package names
GROUPS = {"shards": "Data", "size": "Images", "epochs": "Optimisation", "seed": "Run"}  # first field -> heading in help
ALIASES = {  # other programs' names of these options
    "shards": "data",
    "size": "imgsz",
    "batch_size": "batch",
    "threads": "workers",
    "runs": "project",
    "backbone": "model",
}


def value(default: Any, text: str, kind: click.ParamType | None = None) -> Any:
    """Return a field with its help text and the type of its value, or of each value of a list.

    Args:
        kind: a `Number` for numbers; texts and switches need none.
    """
    how: dict[str, Any] = {"default_factory": lambda: list(default)} if isinstance(default, list) else {}
    return field(**(how or {"default": default}), metadata={"help": text, "type": kind})


def default(name: str, other: Any, text: str = "") -> Any:
    """Return the field `name` of `Config` with another default, and another help text where one is given."""
    metadata = Config.__dataclass_fields__[name].metadata
    return value(other, text or metadata["help"], metadata["type"])


@dataclass
class Config:
    """Values common to all trainers. A subclass adds those of a detector."""

    shards: str = value("", "folder written by `dataforge ingest`")
    name: str = value("", "name of the run; empty for the next free one of exp, exp2, ...")
    runs: str = value("runs", "output folder; a run is written to runs/<detector>/<name> in it")
    train_split: str = value("train", "split to train on")
    val_split: str = value("val", "split to evaluate on; empty to skip")
    classes: list[str] = value([], "only these classes, in this order; none for all")
    area: list[float] = value(
        [], "only objects of this area, in square pixels of the source image; inf for no limit", RANGE
    )
    side: list[float] = value(
        [], "only boxes whose shorter side has this length, in pixels of the source image; inf for no limit", RANGE
    )
    empty: str = value("keep", "images without boxes", click.Choice(["keep", "drop"]))
    size: list[int] = value([416, 416], "network input, height,width (or one number)", natural(32))
    fit: str = value("letterbox", "how images are brought to the size", click.Choice(["letterbox", "stretch"]))
    buckets: str = value(
        "", "train at several sizes, chosen by aspect ratio: auto (with the area of size), or h,w,h,w,..."
    )
    multiscale: list[float] = value(
        [], "low,high: every 10 steps draw a factor of the size, in steps of 32 pixels", real(above=0, most=4)
    )
    augment: str = value("yolo", "augmentation recipe")
    shuffle: str = value(
        "full", "order of an epoch; window:N shuffles N records at a time, whose files are read together: docs/scale.md"
    )
    sampling: str = value(
        "none",
        "repeat-factor: repeat images of rare classes within an epoch",
        click.Choice(["none", "repeat-factor"]),
    )
    repeat_threshold: float = value(
        0.001, "with repeat-factor: fraction of images below which a class is rare", real(above=0)
    )
    on_error: str = value(
        "raise",
        "raise an error at a damaged image, or skip it: a grey image without boxes, listed after each epoch",
        click.Choice(["raise", "skip"]),
    )
    epochs: int = value(160, "passes over the training split", natural())
    batch_size: int = value(16, "images per step, over all processes", natural())
    auto_batch: bool = value(
        False, "as many images per step as fit in memory; on a CPU, more than batch_size if faster"
    )
    budget: int = value(0, "instead of batch_size: pixels per step, over all processes; 0 for none", natural(0))
    accumulate: int = value(1, "number of parts in which a step's images are processed, to save memory", natural())
    optimizer: str = value("sgd", "optimizer", click.Choice(["sgd", "adamw"]))
    lr: float = value(1e-3, "learning rate", real(least=0))
    bias_lr: float = value(1.0, "factor of the learning rate of biases (not those of norms)", real(least=0))
    layer_decay: float = value(
        1.0, "factor of the learning rate per backbone unit, from the last to the first", real(above=0, most=1)
    )
    momentum: float = value(0.9, "SGD's momentum, AdamW's first beta", real(least=0, below=1))
    weight_decay: float = value(5e-4, "weight decay of weights; biases and norms have none", real(least=0))
    schedule: str = value(
        "step", "of the learning rate; step is x0.1 at milestones", click.Choice(["step", "cosine", "constant"])
    )
    milestones: list[int] = value([60, 90], "epochs at which the learning rate drops", natural(0))
    warmup_steps: int = value(100, "steps over which the learning rate grows from 0", natural(0))
    amp: str = value("none", "mixed precision; auto if faster here", click.Choice(["none", "auto", "bf16", "fp16"]))
    ema: float = value(
        0.9998,
        "decay of the exponential moving average (EMA) of the weights, which is evaluated; 0 for none",
        real(least=0, below=1),
    )
    compile: bool = value(False, "compile the network with torch.compile, once for each batch shape")
    clip: float = value(10.0, "clip the gradient to this norm; 0 for none", real(least=0, infinite=True))
    seed: int = value(0, "seed of initial weights, order and augmentation", natural(0))
    defaults: str = value(
        "auto",
        "of what neither flags nor --config state: auto chooses it for the set and the machine, paper takes the values "
        "that this help lists",
        click.Choice(["auto", "paper"]),
    )
    device: str = value("auto", "auto (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1 (or 1), mps, ...")
    timeout: int = value(
        600, "under torchrun, seconds that processes wait for one that is stopped or blocked, then end", natural()
    )
    threads: int = value(0, "decoding threads; 0 for one per core", natural(0))
    decode: str = value("host", "device decodes JPEGs on a CUDA device", click.Choice(["host", "device"]))
    cache: bool = value(False, "train from a cache beside the shards with images shrunk to the training size")
    keep: int = value(4, "number of newest checkpoints to keep", natural())
    save_steps: int = value(0, "also save every N steps; 0 saves at the end of an epoch only", natural(0))
    checkpoints: str = value(
        "",
        "URL (s3://, gs://, az://, file://) or folder to which checkpoints are also sent, while training continues; "
        "with --resume DIR, a lost DIR is fetched from there: docs/scale.md",
    )
    eval_every: int = value(1, "epochs between evaluations; the last epoch is always evaluated", natural())
    patience: int = value(
        0, "stop after this many evaluations without a better mAP50-95; 0 never stops early", natural(0)
    )
    logger: str = value("tensorboard", "tensorboard, wandb or mlflow")
    profile: bool = value(False, "write trace.json of three steps, for chrome://tracing or Perfetto")

    def check(self) -> None:
        """Convert and validate the values.

        Raises:
            ConfigError: a value is invalid; the message names the key, its value and what was expected.
        """
        for name, given in vars(self).items():
            setattr(self, name, convert(type(self), name, given))
        if len(self.size) == 1:
            self.size = self.size * 2
        if len(self.size) != 2:
            raise ConfigError(f"size is {self.size}; expected height,width of at least 32")
        if self.multiscale and (len(self.multiscale) != 2 or self.multiscale[0] > self.multiscale[1]):
            raise ConfigError(f"multiscale is {self.multiscale}; expected two factors of the size, such as 0.75,1.45")
        if self.accumulate > self.batch_size and not self.budget:
            raise ConfigError(f"accumulate is {self.accumulate}; expected at most batch_size, {self.batch_size}")
        if self.auto_batch and self.budget:
            raise ConfigError(f"budget is {self.budget}; expected 0 with auto_batch")
        if self.patience and not self.val_split:
            raise ConfigError(f"patience is {self.patience}; expected 0, or a val_split to evaluate")
        window_of(self.shuffle)
        check_logger(self.logger)
        located(self.checkpoints)
        if is_url(self.runs):
            raise ConfigError(f"runs is {self.runs!r}, which is a URL; expected a folder; --checkpoints takes a URL")
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


def check_splits(config: Config) -> None:
    """Check that the shards can be opened and have both splits, before anything that takes long.

    Raises:
        ConfigError: a split is missing; the message says which option to pass. ShardError: as for `Shards`.
    """
    from dataforge.record import resolve_split  # help needs neither
    from dataforge.shards.reader import Shards

    index = Shards(config.shards).index  # read once: that of many shards takes seconds
    splits = [*index["splits"], *index["unions"]]
    for name, starts, other in (("train_split", ("tra",), "NAME"), ("val_split", ("val", "dev"), "''")):
        split: str = getattr(config, name)
        try:
            if split:
                resolve_split(split, splits)
        except UnknownNameError as error:
            near = (one for one in splits if one.startswith((split[:3], *starts)))
            raise ConfigError(
                f"{error}. Pass --{name.replace('_', '-')} {next(near, other)}, or make splits by `dataforge split "
                f"{config.shards} --out NEW --val 0.1`"
            ) from None


def convert(kind: type[Config], name: str, given: Any) -> Any:
    """Return the value of a field in the field's own type.

    Raises:
        ConfigError: it has another type, or is out of range; the message names the field, the value and the range.
    """
    hint = get_type_hints(kind)[name]
    item_type = kind.__dataclass_fields__[name].metadata["type"] or (click.BOOL if hint is bool else click.STRING)
    items = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, dict) or (isinstance(given, list | tuple) and not get_args(hint)):
        raise ConfigError(f"{name} is {given!r}; expected one value")
    texts = [item if isinstance(item, str) else json.dumps(item, default=str) for item in items]
    try:
        converted = [item_type(text) for text in texts]
    except click.BadParameter as error:
        raise ConfigError(f"{name}: {error.message}") from None
    return converted if get_args(hint) else converted[0]


def included(name: str, detector: str = "") -> Path:
    """Return the file of a configuration that is installed with the trainers, by its name; `detector_` may be left out.

    Raises:
        ConfigError: there is none.
    """
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"  # a wheel, or a checkout
    files = {file.stem: file for file in folder.glob("*.toml") if "\nsteps =" not in file.read_text("utf-8")}
    for full in (name, f"{detector}_{name}"):
        if full in files:
            return files[full]
    raise unknown("configuration", name, [*files, "FILE.toml"])


def read_toml(kind: type[Config], path: Path, detector: str = "") -> dict[str, Any]:
    """Read a TOML file, or the included configuration of that name, and check its values against those of `kind`.

    Args:
        detector: its name, which may be left out of the configuration's.

    Raises:
        ConfigError: the file is not readable or not TOML, a name or key is unknown, or a value is invalid.
    """
    if path.name == str(path) and not path.suffix and (not exists(path) or path.is_dir()):
        path = included(path.name, detector)
    try:
        with reading(path, ConfigError):
            values = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    known = kind.__dataclass_fields__
    for key, given in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, NEAR)
            raise ConfigError(f"{path}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            values[key] = convert(kind, key, given)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    augment = Path(values.get("augment", ""))  # sought in the working directory, then beside this file
    if augment.suffix == ".toml" and not exists(augment) and exists(path.parent / augment):
        values["augment"] = str(path.parent / augment)
    return values


def to_toml(config: Config) -> str:
    """Return all values as the text of a file that `--config` can read."""
    plain = {key: json.dumps(value, ensure_ascii=False) for key, value in vars(config).items()}
    plain |= {key: str(getattr(config, key)) for key in RANGES}  # JSON spells inf differently
    return "".join(f"{key} = {value}\n" for key, value in plain.items())


def write_toml(config: Config, path: Path) -> None:
    """Write all values to a file that `--config` can read."""
    path.write_text(to_toml(config), "utf-8")


class _List(click.ParamType):
    """Comma-separated numbers or names."""

    def __init__(self, item: click.ParamType) -> None:
        self.item = item
        self.name = "N,N" if isinstance(item, Number) else "NAME,NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        return [self.item(item, param, ctx) for item in str(value).split(",") if item]


def _as_list(context: click.Context, param: click.Parameter, pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)


def options(kind: type[Config]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator with Click options for all fields of a configuration; a flag that is not given is None."""
    hints, common = get_type_hints(kind), Config.__dataclass_fields__
    group, made = "", []
    for item in dataclasses.fields(kind):
        group = GROUPS.get(item.name, group) if item.name in common else "Detector"
        flags = [f"--{name.replace('_', '-')}" for name in (item.name, ALIASES.get(item.name)) if name]
        shown = item.default_factory() if callable(item.default_factory) else item.default
        text = item.metadata["help"]
        if shown not in ("", []):
            text += f"  [default: {','.join(map(str, shown)) if isinstance(shown, list) else shown}]"
        item_type = item.metadata["type"] or click.STRING
        how: dict[str, Any] = {"type": _List(item_type) if get_args(hints[item.name]) else item_type}
        if hints[item.name] is bool:
            flags, how = [f"{flags[0]}/--no-{flags[0][2:]}"], {}
        elif item.name in RANGES:
            how = {"type": item_type, "nargs": 2, "metavar": "MIN MAX", "callback": _as_list}
        made.append(click.option(*flags, item.name, cls=Option, group=group, default=None, help=text, **how))

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(made):
            command = option(command)
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
        package = "'dataforge-detection[train]'" if name in TRAIN else name
        raise ConfigError(f"logger is {name!r}, which is not installed; pip install {package}")
