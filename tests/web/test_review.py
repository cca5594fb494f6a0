"""Reviewing where a model disagrees with the boxes, in a real Chromium; the model's answers are played."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataforge.images import synth
from dataforge.overlay.boxes import Box
from dataforge.web.disagreements import surest
from tests.web.browser import Server, Tab, chromium

Play = Callable[[dict[int, Any]], Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def play(browser: Any, tmp_path: Path) -> Iterator[Play]:
    """Open the page at its first image with more than 3 boxes, where a model proposes what is given by image number."""
    synth.write(tmp_path / "set", images=8, seed=4)
    server = Server(tmp_path / "set")
    context = browser.new_context(viewport={"width": 1280, "height": 720})

    def start(proposals: dict[int, Any]) -> Tab:
        tab = Tab(context, server, 0)
        settings = tab.get("/api/set") | {"proposals": True}

        def answer(route: Any) -> None:
            n = int(route.request.url.rsplit("/", 1)[1])
            facts = proposals.get(n, {"boxes": agreeing(tab.get(f"/api/images/{n}"))})
            route.fulfill(content_type="application/json", body=json.dumps({"pending": False} | facts))

        body = json.dumps(settings)
        tab.page.route("**/api/set", lambda route: route.fulfill(content_type="application/json", body=body))
        tab.page.route("**/api/proposals/*", answer)
        tab.reload()
        return tab

    yield start
    context.close()
    server.close()


def agreeing(image: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"box": item["box"], "label": item["label"], "score": 0.9} for item in image["boxes"]]


def say(tab: Tab, text: str) -> None:
    tab.wait_text("#review", text)


def test_each_kind_is_accepted_by_one_key(play: Play) -> None:
    proposals: dict[int, Any] = {}
    tab = play(proposals)
    images = [tab.get(f"/api/images/{n}") for n in range(8)]
    n = next(image["n"] for image in images if len(image["boxes"]) >= 3)
    wrong, loose, extra = images[n]["boxes"][:3]
    others = images[n]["boxes"][3:]
    x1, y1, x2, y2 = loose["box"]
    tight = [x1, y1, x1 + (x2 - x1) * 0.625, y2]
    label = (wrong["label"] + 1) % len(synth.CLASSES)
    missing = {"box": [0, 0, 4, 4], "label": 2, "score": 0.8}
    said = [
        {"box": wrong["box"], "label": label, "score": 0.95},
        missing,
        {"box": tight, "label": loose["label"], "score": 0.7},
        {"box": [9, 9, 19, 19], "label": 0, "score": 0.2},  # below the slider
    ]
    proposals[n] = {"boxes": [*said, *agreeing({"boxes": others})]}
    tab.keys("q")
    say(tab, f"wrong class: {synth.CLASSES[label]} 0.95, 4 in this image")  # images that agree are passed over
    assert tab.inside("inside.boxes().n") == n and tab.inside("inside.boxes().current.id") == wrong["id"]
    tab.keys("y")
    say(tab, f"missing: {synth.CLASSES[2]} 0.80, 3 in this image")
    tab.keys("y")
    say(tab, f"loose: {synth.CLASSES[loose['label']]} 0.70, 2 in this image")
    tab.keys("y")
    say(tab, f"extra: {synth.CLASSES[extra['label']]}, 1 in this image")
    assert tab.inside("inside.boxes().current.id") == extra["id"]
    tab.keys("y")
    say(tab, "")  # at the last image: the others agree
    tab.wait("document.querySelector('#status').dataset.word", "saved")
    saved = {item["id"]: item for item in tab.get(f"/api/images/{n}")["boxes"]}
    assert saved.pop(wrong["id"])["label"] == label and extra["id"] not in saved
    assert saved.pop(loose["id"])["box"] == pytest.approx(tight, abs=0.1)
    assert {item["id"]: item for item in others} == {id: saved.pop(id) for id in [item["id"] for item in others]}
    [added] = saved.values()
    assert added["box"] == missing["box"] and added["label"] == 2 and not tab.faults
    for other in images:
        assert other["n"] == n or tab.get(f"/api/images/{other['n']}")["boxes"] == other["boxes"]


def test_what_is_dismissed_does_not_come_back(play: Play) -> None:
    proposals: dict[int, Any] = {0: {"boxes": []}}
    tab = play(proposals)
    image = tab.get("/api/images/0")
    proposals[0] = {"boxes": [*agreeing(image), {"box": [0, 0, 5, 5], "label": 1, "score": 0.6}]}
    tab.reload()
    tab.keys("q")
    say(tab, f"missing: {synth.CLASSES[1]} 0.60, 1 in this image")
    tab.keys("x")
    say(tab, "")
    assert tab.get("/api/images/0") == image, "nothing is saved"
    again = play(proposals)
    again.keys("q")
    say(again, "")
    assert not tab.faults and not again.faults


def test_a_model_that_fails_calls_no_box_extra(play: Play) -> None:
    tab = play({0: {"boxes": [], "error": "the model is none"}})
    tab.keys("q")
    tab.page.wait_for_timeout(500)
    assert tab.inside("inside.boxes().n") == 0 and tab.text("#position") == "1 / 8"
    tab.keys("y", "x", "q")
    say(tab, "")
    assert tab.get("/api/images/0")["revision"] == 0 and not tab.faults


def test_the_server_ranks_as_the_page_does(play: Play) -> None:
    rng, cases = np.random.default_rng(0), []
    for _ in range(300):
        corners = rng.integers(0, 3, (rng.integers(0, 4), 2)) * 9
        sets = []
        for count in (len(corners), rng.integers(0, 5)):
            low = (corners[rng.integers(0, len(corners), count)] if len(corners) else np.zeros((count, 2))) + 1.0
            boxes = np.concatenate([low, low + 8], 1) + rng.integers(-1, 2, (count, 4)) * rng.choice([0, 0.75, 1])
            sets.append(
                [(*box, label) for box, label in zip(boxes.tolist(), rng.integers(0, 2, count).tolist(), strict=True)]
            )
        items = [
            {"id": f"b{i}", "box": box, "label": label, "flags": int(rng.integers(0, 2))}
            for i, (*box, label) in enumerate(sets[0])
        ]
        scores = rng.permutation(8) / 8
        proposals = [{"box": box, "label": label, "score": scores[i]} for i, (*box, label) in enumerate(sets[1])]
        cases.append((items, proposals))
    found = play({}).page.evaluate(
        "(cases) => import('/static/review.js').then(({disagreements}) => cases.map((two) => disagreements(...two)))",
        cases,
    )
    ranked = [
        surest([Box(tuple(one["box"]), one["label"], one["flags"]) for one in items], proposals)
        for items, proposals in cases
    ]
    assert ranked == [max((one["score"] for one in each), default=None) for each in found]
    assert {None, 0.0} < set(ranked) and len(set(ranked)) > 6, "each kind is tried"


def test_review_begins_with_the_surest_error_of_all(play: Play) -> None:
    proposals = {n: {"boxes": []} for n in range(8)}
    tab = play(proposals)
    for n in range(8):
        proposals[n]["boxes"] = agreeing(tab.get(f"/api/images/{n}"))
    for n, score in ((2, 0.6), (5, 0.8)):
        proposals[n]["boxes"].append({"box": [0, 0, 4, 4], "label": n % 2, "score": score})
    facts = {"images": [{"n": n, "value": {5: 0.9, 2: 0.8}.get(n, 0)} for n in range(8)], "pending": False}
    answer = {"content_type": "application/json", "body": json.dumps(facts)}
    tab.page.route("**/api/queue?by=errors", lambda route: route.fulfill(**answer))
    tab.reload()
    tab.page.select_option("#by-order", "errors")
    tab.wait("document.querySelector('#image-count').textContent", "8")
    tab.keys("Escape", "q")
    say(tab, f"missing: {synth.CLASSES[1]} 0.80, 1 in this image")
    tab.keys("x")
    say(tab, f"missing: {synth.CLASSES[0]} 0.60, 1 in this image")
    assert tab.inside("inside.boxes().n") == 2 and not tab.faults


def test_the_least_sure_images_come_first(play: Play) -> None:
    tab = play({})
    order = {3: 0.9, 1: 0.7, 6: 0.7}
    facts = {"images": [{"n": n, "value": unsure} for n, unsure in order.items()], "pending": False}
    tab.page.route(
        "**/api/queue?by=unsure", lambda route: route.fulfill(content_type="application/json", body=json.dumps(facts))
    )
    keys = [row["key"] for row in tab.get("/api/images")["images"]]
    names = "[...document.querySelectorAll('#image-rows .name')].map((row) => row.textContent)"
    tab.wait(names, [key.split("/")[-1] for key in keys])
    tab.page.select_option("#by-order", "unsure")
    tab.wait(names, [keys[n].split("/")[-1] for n in (3, 1, 6, 0, 2, 4, 5, 7)])
    tab.keys("Escape", "d")  # the first image is the fourth now
    tab.wait_text("#position", "3 / 8")
    tab.keys("a", "a")
    tab.wait_text("#position", "7 / 8")
    assert not tab.faults
