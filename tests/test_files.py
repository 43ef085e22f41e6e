import hashlib
from pathlib import Path

import numpy as np
import pytest

from components.errors import UsageError
from components.files import atomic_directory, atomic_file, folder_sha256, memory_mapped, write_text


def test_a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("page.html", "first")]
    write_text(path, "second \udc9f")
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("page.html", "second ?")]


def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"page\.html cannot be written"):
        write_text(tmp_path / "file" / "page.html", "text")


def test_a_directory_is_replaced_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    output = tmp_path / "model"
    with atomic_directory(output) as partial:
        (partial / "weights").write_text("first")
    with pytest.raises(KeyboardInterrupt), atomic_directory(output) as partial:
        (partial / "weights").write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["model"] and (output / "weights").read_text() == "first"
    with atomic_directory(output) as partial:
        (partial / "other").write_text("second")
    assert [file.name for file in output.iterdir()] == ["other"] and list(tmp_path.iterdir()) == [output]


def test_a_mapped_array_is_computed_once_and_in_parts(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def chunk(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return np.arange(start, stop, dtype=np.float32)[:, None]

    expected = np.arange(600, dtype=np.float32)[:, None]
    for _ in range(2):
        found = memory_mapped(tmp_path / "array.npy", (600, 1), np.float32, chunk)
        assert isinstance(found, np.memmap) and np.array_equal(found, expected)
    assert asked == [(0, 256), (256, 512), (512, 600)]


def test_the_digest_of_a_folder_is_of_its_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, content in (("b/one", "1"), ("two", "2"), ("left_out", "3")):
        (tmp_path / name).write_text(content)
    expected = hashlib.sha256()
    for name, content in (("two", "2"), ("b/one", "1")):
        expected.update(f"{name}\0{hashlib.sha256(content.encode()).hexdigest()}\n".encode())
    assert folder_sha256(tmp_path, frozenset({"left_out"})) == expected.hexdigest()
    (tmp_path / "two").rename(tmp_path / "three")
    assert folder_sha256(tmp_path, frozenset({"left_out"})) != expected.hexdigest()
