"""Checks of an installation for `dataforge doctor`: versions, devices, decoders, disks, and a short training."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import dataforge
from dataforge.bench.measure import cpu
from dataforge.errors import ConfigError, DataError, DataforgeError, ImageError, counted, without_extra
from dataforge.process import module_json
from dataforge.threads import cores

OK, MISSING, FAILED = "ok", "missing", "failed"
DEVELOPERS = {"bench", "dev"}  # extras that no user needs
DECODERS = ("JPEG", "PNG", "WebP", "AVIF", "JPEG XL")
LEAST_FREE = 1 << 30  # bytes of a disk
PIXELS_AGREE = 8  # mean difference between drawn and decoded pixels, of 255; lossy formats need some
DEVICES_AGREE = 0.02  # relative difference from the CPU; TF32 convolutions round to 1e-3 in each layer


class Check(NamedTuple):
    """Result of a check.

    Attributes:
        status: OK; MISSING, something optional; or FAILED.
        next: what to do about it; "" if nothing.
    """

    name: str
    status: str
    text: str
    next: str = ""


class AbsentError(Exception):
    """Something optional is missing; its arguments are a check's text and next step."""


def checks(folders: list[Path]) -> Iterator[Check]:
    """Run all checks and yield their results, in the order in which they are printed.

    Args:
        folders: their disks must have space.
    """
    yield from versions()
    computed = list(devices())
    yield from computed
    yield from decoders()
    yield from disks(folders)
    usable = [check.name.lower() for check in computed if check.status == OK]
    yield from self_check(usable[-1])


def attempt(name: str, work: Callable[[], str], repair: str) -> Check:
    """Run one check. Any error is its result: an installation can be broken in every way.

    Args:
        work: returns the text of a success; raises `AbsentError` if something optional is missing.
        repair: the next step after a failure.
    """
    try:
        return Check(name, OK, work())
    except AbsentError as absent:
        return Check(name, MISSING, *absent.args)
    except ModuleNotFoundError as error:  # if it is required, the check of its version has failed
        text = without_extra(error) or f"needs {error.name}, which is not installed"
        return Check(name, MISSING, text, "install the packages named above")
    except Exception as error:
        kind = "" if isinstance(error, DataforgeError) else f"{type(error).__name__}: "
        return Check(name, FAILED, kind + " ".join(str(error).split()), repair)


def versions() -> Iterator[Check]:
    """Compare what is installed with the requirements of this package, and of its extras."""
    from packaging.requirements import Requirement

    yield Check("python", OK, f"{platform.python_version()}, {platform.platform()}")
    names = metadata.packages_distributions().get("dataforge")
    if not names:
        text = f"{dataforge.__version__}, not installed: its requirements are unknown"
        yield Check("dataforge", MISSING, text, "in its folder: pip install .")
        return
    yield Check("dataforge", OK, dataforge.__version__)
    requirements = [Requirement(line) for line in metadata.requires(names[0]) or ()]

    required = [each for each in requirements if _applies(each, "") or _applies(each, "train")]
    for each in required:
        yield attempt(each.name, partial(_version, each), f"pip install '{each.name}{each.specifier}'")
    for extra in metadata.metadata(names[0]).get_all("Provides-Extra") or ():
        added = [each for each in requirements if each not in required and _applies(each, extra)]
        if extra not in DEVELOPERS and extra != "train":
            install = f"pip install '{names[0]}[{extra}]'"
            yield attempt(f"extra {extra}", partial(_extra, added, install), install)


def _applies(requirement: Any, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(requirement: Any) -> str:
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        raise ConfigError("not installed") from None
    if not requirement.specifier.contains(installed, prereleases=True):
        raise ConfigError(f"{installed}; expected {requirement.specifier}")
    if requirement.name == "opencv-python-headless":
        import cv2

        if not requirement.specifier.contains(cv2.__version__):
            raise ConfigError(
                f"another package of OpenCV has put {cv2.__version__} in the place of {installed}; uninstall both"
            )
    return installed


def _extra(requirements: list[Any], install: str) -> str:
    installed = {distribution.name for each in requirements for distribution in metadata.distributions(name=each.name)}
    absent = [each.name for each in requirements if each.name not in installed]
    if absent:
        raise AbsentError(f"not installed: {', '.join(absent)}", install)
    return ", ".join(f"{each.name} {_version(each)}" for each in requirements)


def devices() -> Iterator[Check]:
    """Compute on each device that training may use."""
    yield Check("CPU", OK, f"{cores()} of {os.cpu_count()} cores usable, {cpu()}")
    for name, describe in (("CUDA", _cuda), ("MPS", _mps)):
        yield attempt(name, describe, "update the driver and torch, or train with --device cpu")


def _cuda() -> str:
    import torch

    if torch.version.cuda is None:
        raise AbsentError("this torch is built without CUDA", "for an NVIDIA GPU: https://pytorch.org/get-started")
    if not torch.cuda.is_available():
        raise AbsentError("torch sees no NVIDIA GPU", "if there is one, run nvidia-smi; update its driver")
    _multiply("cuda")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{', '.join(names)}, CUDA {torch.version.cuda}"


def _mps() -> str:
    import torch

    if not torch.backends.mps.is_available():
        raise AbsentError("no Apple GPU that torch can use", "")
    _multiply("mps")
    return platform.machine()


def _multiply(device: str) -> None:
    import torch

    ones = torch.ones(64, 64, device=device)
    total = float((ones @ ones).sum())
    if total != 64**3:
        raise DataError(f"a product of matrices sums to {total}; expected {64**3}")


def decoders() -> Iterator[Check]:
    """Encode a small image in each format, decode it as the loader does, and compare the pixels."""
    for kind in DECODERS:
        repair = "pip install --force-reinstall " + {"JPEG": "simplejpeg", "JPEG XL": "pylibjxl"}.get(kind, "pillow")
        yield attempt(f"decode {kind}", partial(_decode, kind), repair)


def _decode(kind: str) -> str:
    import numpy as np
    import PIL.features
    import PIL.Image

    from dataforge.images.decode import decode

    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = (200, 120, 40)
    if kind == "JPEG XL":
        import pylibjxl

        data = pylibjxl.encode(pixels)
    elif kind in ("WebP", "AVIF") and not PIL.features.check(kind.lower()):
        raise AbsentError(f"Pillow is built without {kind}", "pip install --upgrade pillow")
    else:
        file = BytesIO()
        PIL.Image.fromarray(pixels).save(file, kind)
        data = file.getvalue()
    gap = float(np.abs(decode(data).astype(int) - pixels).mean())
    if gap > PIXELS_AGREE:
        raise ImageError(f"decoded pixels differ by {gap:.0f} of 255 on average")
    return "a drawn image"


def disks(folders: list[Path]) -> Iterator[Check]:
    """Check that folders exist, can be written, and lie on disks with space."""
    for folder in folders:
        yield attempt(
            f"disk of {folder}", partial(_free, folder), "choose a folder that you may write to, on a disk with space"
        )


def _free(folder: Path) -> str:
    if not folder.is_dir():
        raise ConfigError("no such folder")
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        raise ConfigError("the folder cannot be written")
    if free < LEAST_FREE:
        raise ConfigError(f"{free / 2**30:.2f} GiB free; expected at least {LEAST_FREE / 2**30:.0f} GiB")
    return f"{free / 2**30:.1f} GiB free"


def self_check(device: str) -> Iterator[Check]:
    """Draw images, ingest and load them, train a step; compare the device with the CPU.

    Args:
        device: "cpu" compares nothing.
    """
    try:
        with TemporaryDirectory(prefix="dataforge-doctor-") as folder:
            yield from _self_check(Path(folder), device)
    except OSError as error:
        yield Check("temporary folder", FAILED, str(error), "free space there, or set TMPDIR to another folder")


def _self_check(folder: Path, device: str) -> Iterator[Check]:
    report = "reinstall what failed above; if nothing did, report this with the versions"
    loaded = attempt("loader", partial(_load, folder), report)
    yield loaded
    if loaded.status != OK:
        return
    facts: dict[str, Any] = {}

    def step() -> str:
        started = time.monotonic()
        facts.update(module_json("trainers.doctor", "--shards", folder / "shards", "--device", device))
        return f"a step of dense on the CPU, loss {facts['loss']:.3f}, {time.monotonic() - started:.1f} s"

    yield attempt("trainer", step, report)
    if facts:
        yield Check("mixed precision", OK, facts["amp"])
        yield attempt(
            "devices agree", partial(_agree, facts, device), "train with --device cpu; update driver and torch"
        )


def _load(folder: Path) -> str:
    from dataforge.formats.coco import read
    from dataforge.images.synth import write
    from dataforge.ingest.run import ingest
    from dataforge.loading.loader import Loader

    started = time.monotonic()
    write(folder / "pictures", images=10, size=(64, 96))
    ingest(read(folder / "pictures"), folder / "shards", source_name="coco")
    batch = next(iter(Loader(folder / "shards", "train", 4, (64, 128))))
    text = f"{counted(len(batch), 'image')}, {counted(int((batch.labels >= 0).sum()), 'box')} in a batch"
    return f"{text}, {time.monotonic() - started:.1f} s"


def _agree(facts: dict[str, Any], device: str) -> str:
    if device == "cpu":
        raise AbsentError("nothing to compare with the CPU: no usable CUDA or MPS device", "")
    name, gap = max(facts["gaps"].items(), key=lambda item: item[1])
    text = f"the first batch's {name} differs by {gap:.2%} from the CPU's"
    if not gap <= DEVICES_AGREE:
        raise DataError(f"{device}: {text}; expected at most {DEVICES_AGREE:.0%}")
    return f"{device}: {text}, the most of {len(facts['gaps'])} outputs and losses"
