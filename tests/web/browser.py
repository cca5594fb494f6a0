"""A server of `dataforge annotate` in a process of its own, and a real Chromium that opens its page."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []  # Chromium's sandbox refuses root


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A headless browser; skips the test without one."""
    if CHROMIUM is None:
        pytest.skip("no chromium; install Debian's package, or Chrome")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Server:
    """`dataforge annotate PATH`, or another command, at a port that stays when it is started again."""

    def __init__(self, path: Path, *options: str, command: str = "annotate") -> None:
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "dataforge", command, str(path), "--no-browser", *options]
        self.start()

    def start(self) -> None:
        command = [*self._command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith(self.origin):
                self.address = line.strip()
                return
        raise AssertionError(f"the server did not start:\n{''.join(lines)}")

    def client(self) -> httpx2.Client:
        """A client that has the address's token."""
        return httpx2.Client(
            base_url=self.origin, headers={"Authorization": f"Bearer {self.address.partition('=')[2]}"}
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Tab:
    """The page in one tab."""

    def __init__(self, context: Any, server: Server, n: int | None = None, link: str = "") -> None:
        self.server = server
        self.page = context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.goto(server.address + (f"#{n + 1}" if n is not None else link))
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready]")

    def reload(self) -> None:
        self.page.reload()
        self.ready()

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def burst(self, *keys: str) -> None:
        """Press keys without waiting for the browser between them."""
        self.page.evaluate(
            """(keys) => keys.forEach((text) => {
            const [key, ...more] = text.split("+").reverse();
            const [ctrlKey, altKey, shiftKey] = ["Control", "Alt", "Shift"].map((name) => more.includes(name));
            document.activeElement.dispatchEvent(
              new KeyboardEvent("keydown", { key, ctrlKey, altKey, shiftKey, bubbles: true, cancelable: true }));
            })""",
            keys,
        )

    def wait(self, expression: str, wanted: Any = True, seconds: float = 60) -> None:
        """Wait until an expression has a value. (Playwright's own waiting is refused by the page's CSP.)"""
        end = time.monotonic() + seconds
        while (value := self.page.evaluate(expression)) != wanted:
            assert time.monotonic() < end, f"{expression} is {value!r}, not {wanted!r}"
            self.page.wait_for_timeout(20)

    def painted(self) -> None:
        """Wait until lists and panels show what the page knows: they follow after 60 ms at most, in the next frame."""
        self.page.evaluate(
            """() => new Promise((done) =>
            setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 80))"""
        )

    def wait_text(self, selector: str, text: str) -> None:
        self.wait(f"document.querySelector('{selector}').textContent", text)

    def inside(self, expression: str) -> Any:
        """Evaluate an expression of `inside`, what main.js exports."""
        return self.page.evaluate(f"import('/static/main.js').then(({{inside}}) => {expression})")

    def boxes(self) -> list[dict[str, Any]]:
        """The boxes in view, as the page has them."""
        boxes: list[dict[str, Any]] = self.inside("inside.boxes().plain()")
        return sorted(boxes, key=lambda item: item["id"])

    def saved(self) -> list[dict[str, Any]]:
        """Wait until all is saved; return the boxes as the server has them."""
        self.wait("document.querySelector('#status').dataset.word", "saved", seconds=60)
        return sorted(self.image()["boxes"], key=lambda item: item["id"])

    def get(self, path: str) -> Any:
        return self.page.evaluate("(path) => fetch(path).then((answer) => answer.json())", path)

    def image(self) -> Any:
        return self.get(f"/api/images/{self.inside('inside.boxes().n')}")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the image, in fractions of its size, is in the window."""
        left, top, width, height = self.page.evaluate(
            "() => { const r = document.querySelector('#stage').getBoundingClientRect();"
            " return [r.left, r.top, r.width, r.height]; }"
        )
        x1, y1, x2, y2 = self.inside("inside.stage.onScreen([0, 0, inside.boxes().width, inside.boxes().height])")
        assert width and height
        return left + x1 + x * (x2 - x1), top + y1 + y * (y2 - y1)

    def drag(self, x1: float, y1: float, x2: float, y2: float, force: bool = False) -> None:
        mouse = self.page.mouse
        if force:
            self.page.keyboard.down("Control")
        mouse.move(*self.at(x1, y1))
        mouse.down()
        mouse.move(*self.at((x1 + x2) / 2, (y1 + y2) / 2))
        mouse.move(*self.at(x2, y2))
        mouse.up()
        if force:
            self.page.keyboard.up("Control")

    def text(self, selector: str) -> str:
        self.painted()
        return str(self.page.inner_text(selector))


@contextmanager
def servers(command: str = "annotate") -> Iterator[Callable[..., Server]]:
    """Give a function `(path, *options)` that starts servers; all are closed in the end."""
    started: list[Server] = []

    def start(path: Path, *options: str) -> Server:
        started.append(Server(path, *options, command=command))
        return started[-1]

    yield start
    for server in started:
        server.close()
