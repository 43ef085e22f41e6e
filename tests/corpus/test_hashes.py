"""The digest of a data set is that of its files as they are now, and what was remembered never hides a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.corpus import hashes
from components.corpus.hashes import FileHashes, verified_digest
from components.corpus.manifest import Manifest, data_digest
from components.errors import DataInvalid
from components.files import file_sha256
from tests.evaluation.conftest import row, write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    for number in range(5):
        (data / "images" / f"{number}.png").write_bytes(b"image %d" % number)
    return write_data(data, {"Set": [row("q", ["a", "b"], [0])]})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read; even a file that has just changed is remembered."""
    read: list[Path] = []

    def reading(file: Path) -> str:
        read.append(file)
        return file_sha256(file)

    monkeypatch.setattr(hashes, "file_sha256", reading)
    monkeypatch.setattr(hashes, "FRESH_NS", -1)
    return read


def test_unchanged_files_are_read_once(data: Path, tmp_path: Path, hashed: list[Path]) -> None:
    assert verified_digest(data, tmp_path / "cache") == Manifest.read(data).digest == data_digest(data)
    assert len(hashed) == 6
    assert verified_digest(data, tmp_path / "cache") == data_digest(data) and len(hashed) == 6
    assert verified_digest(data, None) == data_digest(data) and len(hashed) == 12, "nothing is remembered elsewhere"
    data.rename(tmp_path / "moved")
    assert verified_digest(tmp_path / "moved", tmp_path / "cache") == data_digest(tmp_path / "moved")


def test_a_changed_file_of_the_same_size_and_time_is_read_again(data: Path, tmp_path: Path, hashed: list[Path]) -> None:
    verified_digest(data, tmp_path / "cache")
    image = data / "images" / "3.png"
    before = image.stat()
    image.write_bytes(b"image X")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert image.stat().st_mtime_ns == before.st_mtime_ns and image.stat().st_size == before.st_size
    with pytest.raises(DataInvalid, match=r"images/3\.png$") as caught:
        verified_digest(data, tmp_path / "cache")
    assert "dvc checkout data" in caught.value.remedy and "embedline ingest" in caught.value.remedy
    image.write_bytes(b"image 3")
    assert verified_digest(data, tmp_path / "cache") == data_digest(data), "brought back"


def test_a_file_that_has_just_changed_is_not_remembered(data: Path, tmp_path: Path) -> None:
    files = FileHashes(data, tmp_path / "memory.json")
    files.of([data / "images" / "3.png"])
    assert files.known["images/3.png"][0] == []


@pytest.mark.parametrize("remembered", [True, False])
def test_missing_added_and_changed_files_are_named(data: Path, tmp_path: Path, remembered: bool) -> None:
    cache = tmp_path / "cache"
    if remembered:
        verified_digest(data, cache)
    (data / "images" / "0.png").unlink()
    (data / "images" / "9.png").write_bytes(b"new")
    (data / "eval" / "Set.parquet").write_bytes(b"edited")
    with pytest.raises(DataInvalid) as caught:
        verified_digest(data, cache)
    assert "eval/Set.parquet" in caught.value.problem and "images/9.png" in caught.value.problem
    assert ("images/0.png" in caught.value.problem) == remembered and "1.png" not in caught.value.problem


def test_a_broken_memory_is_written_again(data: Path, tmp_path: Path, hashed: list[Path]) -> None:
    verified_digest(data, tmp_path / "cache")
    (memory,) = (tmp_path / "cache").iterdir()
    for broken in ("", "[]", '{"images/0.png": 3}', '{"images/0.png": [["x"], null]}'):
        memory.write_text(broken)
        hashed.clear()
        assert verified_digest(data, tmp_path / "cache") == data_digest(data) and len(hashed) == 6
    hashed.clear()
    assert verified_digest(data, tmp_path / "cache") and not hashed


def test_a_file_that_cannot_be_read_is_named(data: Path) -> None:
    (data / "images" / "0.png").unlink()
    (data / "images" / "0.png").symlink_to("nowhere.png")
    with pytest.raises(DataInvalid, match=r"0\.png cannot be read"):
        verified_digest(data, None)
