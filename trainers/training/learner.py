"""Weights, their average, optimizer state, and a training step."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dataforge.errors import ConfigError, DataError
from dataforge.loading.batch import Batch
from trainers import distributed
from trainers.config import Config
from trainers.models.detector import Detector
from trainers.training import optim, precision

GRAPHS = 256  # maximum number of compiled shapes; batches of other shapes run uncompiled


class Learner:
    """Detector with its optimizer.

    Args:
        config: of which `amp` is not "auto".
        model: moved to the device.
        world: number of processes that share each step.

    Raises:
        ConfigError: `fsdp` does not go with another value.
    """

    def __init__(self, config: Config, model: Detector, device: torch.device, world: int = 1) -> None:
        self.config, self.device, self.world = config, device, world
        self.sharded: Any = None
        if world > 1 and getattr(config, "fsdp", False):
            from trainers.training import sharded  # imports what some builds of torch lack

            self.sharded = sharded
            self.plain = copy.deepcopy(model).requires_grad_(False).eval()  # stays on the host
            self.gathered: Detector | None = None
        layout = torch.contiguous_format if self.sharded else torch.channels_last  # FSDP2 takes no other
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        if device.type == "cpu" and config.amp != "none":
            precision.exact_depthwise(self.model)
        if self.sharded:
            if config.compile or config.amp == "fp16":
                raise ConfigError("fsdp: goes neither with compile nor with amp fp16; expected --amp bf16 or none")
            for part in (self.model, self.average):
                self.sharded.divide(part, device)
        self.optimizer = optim.make_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        if config.compile:
            # One graph per batch shape. A dynamic graph has guards on the relation of the sides, so that it is
            # compiled again for a square shape, or one smaller than some stride.
            self.model.compile(dynamic=False)
        self.net: nn.Module = self.model
        if world > 1 and not self.sharded:
            devices = [device.index] if device.type == "cuda" else None
            self.net = DistributedDataParallel(self.model, device_ids=devices)
        self.model.train()

    @property
    def judged(self) -> Detector:
        """Return the detector to evaluate and save: the average of the weights if `ema` is set, otherwise `model`."""
        if self.sharded:
            assert self.gathered is not None, "gather() comes first"
            return self.gathered
        return self.average if self.config.ema else self.model

    def gather(self) -> None:
        """Put `judged` together from all ranks, which must call it; nothing is done if each has all weights."""
        if self.sharded and self.gathered is None:
            whole = copy.deepcopy(self.plain).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.sharded.gather(self.average if self.config.ema else self.model, whole)
            self.gathered = whole

    def gradients(self, batch: Batch) -> dict[str, float]:
        """Compute the gradients of a step from this rank's part of the batch; all ranks must call it.

        With `accumulate`, the batch is processed in that many parts, whose mean losses are weighted by their images.
        Normalisation layers see one part at a time, and a loss divided by its own count (SSD's, by its positive
        priors) uses the part's.

        Returns:
            The losses by name, means over the images of all ranks, and "loss", their sum.

        Raises:
            DataError: the loss is not finite.
        """
        self.gathered = None  # before the step needs its memory
        images = distributed.total(torch.tensor(float(len(batch)), device=self.device if self.world > 1 else None))
        count = self.config.accumulate
        parts: tuple[Batch, ...] = (batch,)
        if count > 1:
            parts = torch.tensor_split(batch, min(count, int(images) // self.world))  # type: ignore[call-overload]
        sums: Tensor | None = None
        for part in parts:
            with self._synchronised(part is parts[-1]):
                with self._compiling(), self._autocast():
                    raw = self.net(part.images)
                losses = self.model.loss(raw, part)
                values = torch.stack(list(losses.values())) * (len(part) / images)
                self.scaler.scale(values.sum() * self.world).backward()  # DDP takes the mean over ranks
            sums = values.detach() if sums is None else sums + values.detach()
        assert sums is not None, "a batch without images"
        row = dict(zip(losses, distributed.total(sums).tolist(), strict=True))  # the step's only synchronisation
        row["loss"] = sum(row.values())
        if not math.isfinite(row["loss"]):
            local = not bool(sums.isfinite().all())
            raise DataError(
                f"the loss is not finite ({', '.join(f'{name} {value:.4g}' for name, value in row.items())}); "
                + (f"records {batch.index.tolist()}" if local else "the records are another process's")
            )
        return row

    def update(self, rate: float, step: int) -> None:
        """Take an optimizer step (0, 1, ...)."""
        optim.set_rate(self.optimizer, rate)
        self.scaler.unscale_(self.optimizer)
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.ema:
            optim.update_average(self.average, self.model, self.config.ema, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` needs to continue exactly, except the average's weights.

        With FSDP2 all ranks must call it, and rank 0 gets the tensors.
        """
        if self.sharded:
            state = self.sharded.state_dict(self.model, self.optimizer)
        else:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | {
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Continue from another learner's state."""
        if self.sharded:
            self.sharded.load(self.average, average)
            self.sharded.load(self.model, state["model"])
            self.sharded.load_optimizer(self.model, self.optimizer, state["optimizer"])
        else:
            self.average.load_state_dict(average)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # {} of another precision than fp16
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Have the ranks share the gradients in the last part of a step alone."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif self.world > 1 and not last:
            return self.net.no_sync()  # type: ignore[operator, no-any-return]
        return nullcontext()

    def _compiling(self) -> AbstractContextManager[Any]:
        """Raise torch's limit of graphs while the network may be compiled."""
        return torch._dynamo.config.patch(recompile_limit=GRAPHS) if self.config.compile else nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, precision.KINDS[self.config.amp])
