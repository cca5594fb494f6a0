"""Draw the pictures of docs/annotate.md, in Chromium on drawn images, and its table of keys from keys.json.

python docs/annotate.py
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataforge.images import synth  # noqa: E402
from tests.web.browser import Server, Tab, chromium  # noqa: E402

KEYS = json.loads((HERE.parent / "dataforge/web/static/keys.json").read_text("utf-8"))
TABLE = re.compile(r"(?<=<!--keys-->\n).*?(?=<!--/keys-->)", re.DOTALL)


def table() -> str:
    """The keys as Markdown, one table."""
    lines = ["| key | does |", "|---|---|"]
    for group in dict.fromkeys(action["group"] for action in KEYS):
        lines.append(f"| | **{group}** |")
        for action in KEYS:
            if action["group"] == group:
                keys = " ".join(f"`{key}`" for key in action["keys"])
                lines.append(f"| {keys} | {action['text']} (`{action['id']}`) |")
    return "\n".join(lines) + "\n"


def draw(tab: Tab, name: str) -> None:
    tab.page.wait_for_timeout(400)
    image = cv2.imdecode(np.frombuffer(tab.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    cv2.imwrite(str(HERE / "pictures" / f"annotate_{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 82])


def main() -> None:
    page = HERE / "annotate.md"
    page.write_text(TABLE.sub(lambda _: table(), page.read_text("utf-8")), "utf-8")
    with tempfile.TemporaryDirectory() as work, chromium() as browser:
        synth.write(Path(work) / "pictures", images=40, seed=2, size=(480, 800))
        server = Server(Path(work) / "pictures")
        other = Tab(browser.new_context(viewport={"width": 1280, "height": 720}), server, 3)
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
            tab = Tab(context, server, 3)
            tab.keys("Tab", "Tab", "ArrowRight", "f")
            tab.page.mouse.move(*tab.at(0.62, 0.66))
            draw(tab, scheme)
            tab.keys("f", "ArrowLeft")
            tab.saved()
        other.keys("Tab", "r", "ArrowUp")
        other.page.wait_for_selector("#conflict[open]")
        draw(other, "conflict")
        tab.keys("b", "ArrowRight", " ", "Shift+ArrowRight")
        tab.wait(
            "[...document.querySelectorAll('.crops img')].every((image) => image.complete || image.offsetTop > 700)"
        )
        draw(tab, "bulk")
        server.close()


if __name__ == "__main__":
    main()
