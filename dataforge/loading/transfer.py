"""A thread that makes batches on the device while earlier batches are in use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch

from dataforge.loading.batch import Batch


class Transfer:
    """Makes batches on the device, one after another, in its own thread and on its own CUDA stream.

    Copies and kernels of later batches then run concurrently with the training step. Taking a batch waits only for that
    batch: the thread until its work is issued, the stream until its work is done.

    Args:
        device: of the batches; without CUDA, only the thread is used.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = None
        if device.type == "cuda":
            self._stream = _stream(torch.cuda.current_device() if device.index is None else device.index)
        self._thread = ThreadPoolExecutor(1, "dataforge-transfer")

    def begin(self, make: Callable[[], Batch]) -> Callable[[], Batch]:
        """Start making a batch, after those begun earlier.

        Returns:
            A function that waits for the batch and returns it, for work on the calling thread's current stream; it
            raises what `make` raised.
        """
        made = self._thread.submit(self._run, make)
        return lambda: self._take(made)

    def end(self) -> None:
        """Cancel batches that have not been begun, and wait for the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, make: Callable[[], Batch]) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return make(), None
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            return make(), self._stream.record_event()

    def _take(self, made: Future[tuple[Batch, torch.cuda.Event | None]]) -> Batch:
        batch, done = made.result()
        if self._stream is not None and done is not None:
            stream = torch.cuda.current_stream(self._stream.device)
            stream.wait_event(done)
            for tensor in vars(batch).values():
                tensor.record_stream(stream)  # else freed memory could be written to before this stream has read it
        return batch


@cache
def _stream(index: int) -> torch.cuda.Stream:
    """Return one stream for all loaders of a GPU: freed memory is reused only on the stream that allocated it."""
    return torch.cuda.Stream(index)
