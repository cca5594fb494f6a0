"""Text that is nested deeply, or expands to far more than it is: read or refused in words, at once, and briefly."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from dataforge.errors import LONGEST, DataforgeError
from tests.formats.named import WRITE
from tests.formats.sets import picture, put
from tests.fuzz.files import take

DEEP, DIGITS = 20_000, 1 << 20
ENTITIES = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


def bombs(suffix: str, text: str) -> list[str]:
    if suffix == ".xml":
        lol = f'<!DOCTYPE a [<!ENTITY a0 "lol">{ENTITIES}]>'
        outside = '<!DOCTYPE a [<!ENTITY a9 SYSTEM "file:///etc/hostname">]>'
        named = re.sub(r">([^<>\s]+)</", ">&a9;</", re.sub(r"<\?.*?\?>", "", text))
        return [f"{'<annotation>' * DEEP}{'</annotation>' * DEEP}", lol + named, outside + named]
    if suffix == ".yaml":
        keys = [f"{text.replace(f'{key}:', 'x:')}\n{ALIASES}{key}: *a9\n" for key in ("names", "train", "nc", "path")]
        return ["[" * DEEP + "]" * DEEP, *keys, f"{text}\nkpt_shape: &a [*a, 3]\n"]
    if suffix in (".json", ".jsonl", ".ndjson", ".manifest"):
        return ["[" * DEEP + "]" * DEEP, '{"x": ' + "[" * DEEP + "]" * DEEP + "," + text.lstrip()[1:]]
    return ["1" * DIGITS + "\n" + text]


@pytest.mark.parametrize("name", sorted(WRITE))
def test_a_bomb(name: str, tmp_path: Path) -> None:
    keys = ["0.jpg", "1.jpg"]
    for n, key in enumerate(keys):
        put(tmp_path / key, picture(n))
    WRITE[name](tmp_path, keys)
    files = [file for file in sorted(tmp_path.rglob("*")) if file.is_file() and file.suffix != ".jpg"]
    for file in {file.suffix: file for file in files}.values():
        sound = file.read_bytes()
        for bomb in bombs(file.suffix, sound.decode("utf-8", "replace")):
            file.write_text(bomb)
            started = time.process_time()
            try:
                take(name, tmp_path)
            except DataforgeError as error:
                assert len(str(error)) < LONGEST + 40 and "Traceback" not in str(error)
            assert time.process_time() - started < 5
        file.write_bytes(sound)
