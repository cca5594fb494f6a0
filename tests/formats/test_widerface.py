from __future__ import annotations

from pathlib import Path

import pytest

from dataforge.errors import FormatError
from dataforge.formats.sniff import detect
from dataforge.formats.widerface.reader import read
from dataforge.record import DIFFICULT
from tests.formats.sets import drain, picture, put

NAME = "0--Parade/0_Parade_marchingband_1_849.jpg"
FACES = f"{NAME}\n2\n4 8 10 20 0 0 0 0 0 0 \n20 8 10 20 2 0 0 1 2 0 \n0--Parade/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0 \n"


def test_the_published_files(tmp_path: Path) -> None:
    put(tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt", FACES)
    put(tmp_path / "wider_face_split/readme.txt", "Attached the mappings between attribute names and label values.")
    put(tmp_path / "wider_face_split/wider_face_test_filelist.txt", f"{NAME}\n")
    for name in (NAME, "0--Parade/b.jpg"):
        put(tmp_path / "WIDER_val/images" / name, picture())
    assert detect(tmp_path)[0] == "widerface"
    for root in (tmp_path, tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt"):
        source = read(root, images=None if root == tmp_path else tmp_path / "WIDER_val/images")
        (record, empty), findings = drain(source)
        assert source.classes == ("face",) and not findings and record.split == "val"
        assert record.boxes.tolist() == [[4, 8, 14, 28], [20, 8, 30, 28]] and record.flags.tolist() == [0, DIFFICULT]
        assert record.key.endswith(NAME) and not len(empty.boxes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg\n", "line 2: ''; expected the number of faces of a.jpg"),
        ("a.jpg\nb.jpg\n", "line 2: 'b.jpg'; expected the number"),
        ("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n", "line 4: 'the end of the file'; expected x1"),
        ("a.jpg\n1\n1 2 3\n", "line 3: '1 2 3'; expected x1"),
        ("a.jpg\n0\nb.jpg\n1\n1 2 3 4\n", "line 3: 'b.jpg'; expected x1"),
        ("a.jpg\n0\n1 2 3 4 0 0 0 0 0 0\n", "line 3: .*expected zeros"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    file = put(tmp_path / "wider_face_train_bbx_gt.txt", text)
    with pytest.raises(FormatError, match=expected) as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)
