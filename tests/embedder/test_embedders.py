import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.embedder import Vectors, fingerprint
from components.embedder.embedders import RememberedPictures


def test_a_fingerprint_changes_with_any_byte_of_any_file(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    original = fingerprint(copy)
    assert original == fingerprint(directory)
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(copy) != original, file.name
        file.write_bytes(content)
    assert fingerprint(copy) == original


def test_a_fingerprint_changes_with_a_name_and_with_a_file_more(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "more").touch()
    more = fingerprint(copy)
    (copy / "more").rename(copy / "other")
    assert len({fingerprint(directory), more, fingerprint(copy)}) == 3


def test_a_picture_at_a_path_is_encoded_once_and_every_answer_is_its_own(tmp_path: Path) -> None:
    seen: list[object] = []

    def encode(pictures: list[Any]) -> Vectors:
        seen.extend(pictures)
        return np.array([[len(str(picture))] for picture in pictures], np.float32)

    remembered = RememberedPictures(encode)
    drawn = Image.new("RGB", (1, 1))
    for pictures in ([Path("a"), b"bytes", Path("long")], [drawn, Path("long"), Path("new"), Path("a")], [Path("a")]):
        assert remembered(pictures)[:, 0].tolist() == [len(str(picture)) for picture in pictures]
    assert seen == [Path("a"), b"bytes", Path("long"), drawn, Path("new")]
