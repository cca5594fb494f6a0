from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.trainers import fake
from tests.trainers.test_predict import call
from trainers import predict
from trainers.results.video import Video, VideoFile, is_video

SHAPE = (120, 200)
FRAMES = 11


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake.saved(tmp_path / "best.pt", monkeypatch)


def place(frame: int) -> tuple[int, int, int, int]:
    """A red box that moves to the right."""
    return 16 + 8 * frame, 24, 64 + 8 * frame, 72


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """12.5 frames a second."""
    file = VideoFile(tmp_path / "films" / "walk.mp4", 12.5)
    for frame in range(FRAMES):
        file.add(fake.picture(*SHAPE, {0: place(frame)}))
    file.close()
    return file.path


def test_frames_come_as_they_were_written(video: Path) -> None:
    film = Video(str(video))
    assert film.rate == 12.5 and not film.live and film.name == "walk"
    frames = list(film.frames())
    assert len(frames) == FRAMES and all(frame.shape == (*SHAPE, 3) for frame in frames)
    wanted = fake.picture(*SHAPE, {0: place(3)}).astype(int)
    assert np.abs(frames[3] - wanted).mean() < 6, "RGB, in order"
    assert len(list(Video(str(video)).frames(4))) == 4


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_video_gives_a_video(checkpoint: Path, video: Path, tmp_path: Path, batch_size: int) -> None:
    out = tmp_path / "out"
    more = ("--save-video", "--save-json", "--save-txt", "--batch-size", batch_size)
    result = call(checkpoint, "--source", video, "--out", out, *more)
    assert result.exit_code == 0, result.output
    assert "walk/000003.jpg 200x120: 1 red" in result.stdout
    assert f"{FRAMES} frames, {FRAMES} boxes; results saved to" in result.stdout
    drawn = Video(str(out / "walk.mp4"))
    frames = list(drawn.frames())
    assert drawn.rate == 12.5 and len(frames) == FRAMES and frames[0].shape == (*SHAPE, 3)
    assert not list(out.rglob("*.jpg"))
    rows = json.loads((out / "predictions.json").read_text())
    assert [row["image_id"] for row in rows] == list(range(FRAMES))
    for frame, row in enumerate(rows):
        x1, y1, x2, y2 = place(frame)
        np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=6)  # coded colours bleed
    assert len(list((out / "labels/walk").glob("*.txt"))) == FRAMES


def test_a_video_gives_pictures(checkpoint: Path, video: Path, tmp_path: Path) -> None:
    result = call(checkpoint, "--source", video, "--out", tmp_path / "out", "--frames", 3)
    assert result.exit_code == 0 and "3 frames, 3 boxes" in result.stdout
    assert sorted(p.name for p in (tmp_path / "out/walk").iterdir()) == [f"{i:06d}.jpg" for i in range(3)]
    assert fake.pixels_of(tmp_path / "out/walk/000000.jpg").shape == (*SHAPE, 3)


def test_a_camera_is_read_until_it_is_interrupted(
    checkpoint: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the camera; Ctrl-C in its seventh frame leaves a video that plays."""

    class Camera:
        def __init__(self, source: int) -> None:
            assert source == 0
            self.film = opened(str(video))
            self.taken = 0

        def read(self) -> Any:
            self.taken += 1
            if self.taken == 7:
                raise KeyboardInterrupt
            return self.film.read()

        def get(self, what: int) -> float:
            return 0.0  # many cameras do not know their rate

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def release(self) -> None:
            self.film.release()

    opened, sizes, detect = cv2.VideoCapture, [], predict.detect
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(
        predict, "detect", lambda net, some, *rest: (sizes.append(len(some)), detect(net, some, *rest))[1]
    )
    result = call(checkpoint, "--source", "0", "--out", tmp_path / "out", "--save-video")
    assert result.exit_code == 0, result.output
    assert "camera0/000005.jpg 200x120: 1 red" in result.stdout and "6 frames, 6 boxes" in result.stdout
    assert sizes == [1] * 6, "each frame is answered when it comes"
    monkeypatch.setattr(cv2, "VideoCapture", opened)
    assert len(list(Video(str(tmp_path / "out/camera0.mp4")).frames())) == 6


def test_what_is_not_there_is_told_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    source = fake.files(tmp_path / "photos")
    for arguments, message in (
        (("--source", "99"), "--source 99: no camera 99 can be opened"),
        (("--source", tmp_path / "none.mp4"), "none.mp4: cannot be opened; expected a video that OpenCV can read"),
        (("--source", tmp_path / "text.mp4"), "text.mp4: cannot be opened; expected a video"),
        (("--source", "http://127.0.0.1:9/x.mp4"), "cannot be opened; expected a stream that answers"),
        (("--source", source, "--save-video"), "is no video; --save-video and --frames are for videos"),
        (("--source", source, "--frames", 3), "is no video"),
    ):
        result = call(checkpoint, *arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2 and message in result.stderr, result.output
        assert not (tmp_path / "out").exists()


def test_which_sources_are_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(map(is_video, ("0", "a.MP4", "b/c.mkv", "rtsp://10.0.0.1/live")))
    assert not any(map(is_video, ("a.jpg", "photos", "*.png", "a.mp4.jpg")))
    os.mkdir("7")  # noqa: PTH102
    assert not is_video("7"), "a folder of that name"
