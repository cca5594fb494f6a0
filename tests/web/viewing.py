"""Shards with detections beside them, a gallery over them, a client that has its token, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from dataforge.analysis.detections import read_detections
from dataforge.augment.recipes import recipe
from dataforge.cli.main import main
from dataforge.shards.reader import Shards
from dataforge.web.gallery import Gallery
from dataforge.web.reports import read_report
from dataforge.web.viewer import application
from tests.web.photos import HERE, PORT, TOKEN


def detections(shards: Shards, file: Path, seed: int = 0, named: bool = False) -> Path:
    """Write detections of all kinds: moved, missing, doubled, of other classes, on the background, of any score."""
    rng = np.random.default_rng(seed)
    table, rows = shards.table, []
    split_of = {n: name for name, numbers in shards.splits.items() for n in numbers.tolist()}

    def add(n: int, box: np.ndarray, label: int, score: float) -> None:
        x1, y1, x2, y2 = box.astype(float).tolist()
        row = {"category_id": shards.class_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        rows.append(row | ({"file_name": f"{split_of[n]}/{table.key[n]}"} if named else {"image_id": int(table.id[n])}))

    for i, box in enumerate(table.boxes):
        n, label, fate = int(table.image[i]), int(table.labels[i]), rng.random()
        sides = np.tile(box[2:] - box[:2], 2)
        if fate < 0.2:
            continue
        moved = np.clip(rng.normal(0, 0.3 if fate < 0.4 else 0.02, 4), -0.4, 0.4) * sides
        add(
            n, box + moved, int(rng.integers(len(shards.classes))) if fate > 0.85 else label, float(rng.uniform(0.1, 1))
        )
        if fate > 0.8:
            add(n, box, label, 0.3)
    for n in range(len(table)):
        add(n, np.array([0, 0, 7, 5]), 0, float(rng.uniform(0.1, 1)))
    file.write_text(json.dumps(rows), "utf-8")
    return file


@contextmanager
def viewing(
    path: Path, predictions: Path | None = None, augment: str | None = None, report: Path | None = None
) -> Iterator[TestClient]:
    shards = Shards(path)
    found = read_detections(predictions, shards) if predictions else None
    gallery = Gallery(shards, found, recipe(augment) if augment else None, read_report(report) if report else None)
    client = TestClient(application(gallery, TOKEN, PORT, augment or ""), base_url=HERE)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    try:
        yield client
    finally:
        gallery.findings.close()


def listed(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    got = client.get("/api/images", params=query)
    assert got.status_code == 200, got.text
    facts = got.json()
    assert facts["total"] == len(facts["images"]) and facts["boxes"] == sum(
        len(row["boxes"]) for row in facts["images"]
    )
    return list(facts["images"])


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> Result:
    """Run the command up to where it would serve."""
    monkeypatch.setattr("dataforge.cli.view.serve", lambda *_: None)
    return CliRunner().invoke(main, ["view", *map(str, words), "--no-browser", "--port", "0"])
