"""Read frames of a video file, a camera or a network stream, and write frames to a video file, with OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.files import writing

SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
USUAL_RATE = 25.0  # frames per second, if a source does not specify it


class Video:
    """Source of frames.

    Args:
        source: a file, the number of a camera, or an address such as rtsp://...

    Attributes:
        name: the prefix of its frames' names; live: whether it is a camera or a stream; rate: frames per second.

    Raises:
        ConfigError: the source cannot be opened.
    """

    def __init__(self, source: str) -> None:
        self.source, camera = source, source.isdigit()
        self.live = camera or "://" in source
        self.name = f"camera{source}" if camera else Path(source.partition("?")[0]).stem or "stream"
        with _silent():
            self.capture = cv2.VideoCapture(int(source)) if camera else cv2.VideoCapture(source)
        if not self.capture.isOpened():
            if camera:
                raise ConfigError(
                    f"--source {source}: no camera {source} can be opened; is it there, free and allowed?"
                )
            what = "a stream that answers" if self.live else "a video that OpenCV can read"
            raise ConfigError(f"--source {source}: cannot be opened; expected {what}")
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= 1000 else USUAL_RATE

    def frames(self, limit: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield frames, (height, width, 3) RGB, upright.

        Args:
            limit: the maximum number of frames.

        Raises:
            ConfigError: the source has no frames.
        """
        for number in count() if limit is None else range(limit):
            with _silent():
                success, pixels = self.capture.read()
            if not success:
                if number == 0:
                    raise ConfigError(f"--source {self.source}: holds no frame that can be read")
                break
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[misc]

    def close(self) -> None:
        self.capture.release()


@contextmanager
def _silent() -> Iterator[None]:
    """Disable OpenCV's log for a block: it would list every backend that failed."""
    level = cv2.utils.logging.setLogLevel(0)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def is_video(source: str) -> bool:
    """Return whether a source is a camera's number, an address, or a name with a video's suffix."""
    return (
        (source.isdigit() and not Path(source).exists()) or "://" in source or Path(source).suffix.lower() in SUFFIXES
    )


class VideoFile:
    """Writer of an mp4 file (MPEG-4 part 2), created with its first frame; all frames have the first one's size.

    Args:
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: cv2.VideoWriter | None = None

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Append a frame, (height, width, 3) RGB.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self.writer is None:
            with writing(self.path, ConfigError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (pixels.shape[1], pixels.shape[0])
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
            if not self.writer.isOpened():
                raise ConfigError(f"{self.path}: cannot be written")
        self.writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file; without this it cannot be played."""
        if self.writer is not None:
            self.writer.release()
