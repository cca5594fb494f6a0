"""Draw the pictures of docs/view.md, in Chromium on drawn images with drawn detections.

python docs/view.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataforge.formats import reader  # noqa: E402
from dataforge.images import synth  # noqa: E402
from dataforge.ingest.run import ingest  # noqa: E402
from dataforge.shards.reader import Shards  # noqa: E402
from tests.web.browser import Server, Tab, chromium  # noqa: E402
from tests.web.viewing import detections  # noqa: E402

SHOTS = {  # name -> (colours, the part of the address after "#", what is waited for)
    "light": ("light", "sort=-boxes", ".tile img[src]"),
    "dark": ("dark", "sort=-errors&n=2", "#box-rows .wrong"),
    "errors": ("light", "panel=errors", ".matrix"),
    "statistics": ("dark", "panel=statistics", "#statistics table"),
    "augmented": ("light", "seed=1&tile=248", ".tile img[src]"),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as work, chromium() as browser:
        synth.write(Path(work) / "set", images=200, seed=2, size=(240, 480))
        shards = Path(work) / "pictures"
        ingest(reader("coco")(Path(work) / "set"), shards)
        file = detections(Shards(shards), Path(work) / "detections.json", named=True)
        server = Server(shards, "--predictions", str(file), "--augment", "strong", command="view")
        for name, (scheme, link, wanted) in SHOTS.items():
            context = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
            tab = Tab(context, server, link=f"#{link}")
            tab.page.wait_for_selector(wanted)
            tab.wait("[...document.images].every((image) => !image.getAttribute('src') || image.complete)")
            tab.page.wait_for_timeout(600)
            image = cv2.imdecode(np.frombuffer(tab.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            cv2.imwrite(str(HERE / "pictures" / f"view_{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
            context.close()
        server.close()


if __name__ == "__main__":
    main()
