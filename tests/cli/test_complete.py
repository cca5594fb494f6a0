"""What a shell is offered after a part of a command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from dataforge.cli.main import main


def offered(line: str) -> list[str]:
    """The values offered at the end of a command line."""
    *words, incomplete = line.split(" ")
    items = ShellComplete(main, {}, "dataforge", "_DATAFORGE_COMPLETE").get_completions(words, incomplete)
    return [item.value for item in items if item.type == "plain"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ing", ["ingest"]),
        ("ingest co", ["coco"]),
        ("ingest a", ["auto"]),
        ("lint set --format label", ["labelbox", "labelme", "labelstudio"]),
        ("export {} --format label", ["labelme", "labelstudio"]),  # labelbox cannot be written
        ("annotate photos --format vo", ["voc", "vott"]),
        ("show {} --augment s", ["ssd", "strong"]),
        ("view {} --augment fl", ["flip"]),
        ("show {} --class tr", ["traffic light"]),
        ("info {} --classes ", ["cat", "dog", "traffic light"]),
        ("bake {} --classes cat,d", ["cat,dog"]),
        ("stats {} --split ", ["train", "val"]),
        ("split {} --from v", ["val"]),
        ("merge {} {} --classes c", ["cat"]),
        ("export {} --split train,", ["train,train", "train,val"]),
        ("split {} --store m", ["memmap"]),
        ("bench {} --trainer faster", ["faster_rcnn"]),
        ("stats nowhere --split ", []),
        ("stats --split ", []),
        ("split {} --lin", ["--link"]),
    ],
)
def test_what_is_offered(tiny_shards: Path, line: str, expected: list[str]) -> None:
    assert offered(line.replace("{}", str(tiny_shards))) == expected
