from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import DataInvalid
from components.evaluation.loaders.mirror import tables, unpacked, verified_sha256
from tests.evaluation.loaders.conftest import contents, cut_short, source, write_lines, write_parquet

ROWS = [{"text": "a"}, {"text": "b"}]
QA = "video-tasks/frames/video_qa"


@pytest.mark.parametrize(
    ("file", "configuration"),
    [
        ("Subset/test-00000-of-00001.parquet", "Subset"),
        ("Subset/test/0000.parquet", "Subset"),
        ("data/Subset/test-00000-of-00001-0a1b2c.parquet", "Subset"),
        ("Subset.jsonl", "Subset"),
        ("json/Subset.json", "Subset"),
        ("data/test-00000-of-00001.parquet", None),
        ("test.parquet", None),
        ("default/test/0000.parquet", None),
        ("vatex_test/test-00000-of-00001.parquet", None),
        ("data/test.jsonl", None),
    ],
)
def test_a_table_is_found_in_every_shape_that_the_hub_has(tmp_path: Path, file: str, configuration: str | None) -> None:
    for repository in (tmp_path / "OWNER/NAME", tmp_path / "NAME"):
        written = write_lines(repository / file, ROWS)
        write_lines(repository / file.replace("test", "train"), ROWS)
        assert tables("Set", source("OWNER/NAME", configuration), tmp_path) == [written]
        written.unlink()


def test_a_repository_comes_before_its_copy(tmp_path: Path) -> None:
    copy = write_lines(tmp_path / "copies/set.jsonl", ROWS)
    assert tables("Set", source("OWNER/NAME"), tmp_path, [tmp_path / "none.jsonl", copy]) == [copy]
    original = write_parquet(tmp_path / "OWNER/NAME/test-00000-of-00001.parquet", ROWS)
    assert tables("Set", source("OWNER/NAME"), tmp_path, [copy]) == [original]


def test_a_file_named_by_its_split_alone_is_not_taken_from_another_set(tmp_path: Path) -> None:
    write_parquet(tmp_path / "Another/test-00000-of-00001.parquet", ROWS)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", ROWS)
    with pytest.raises(DataInvalid, match="Set: the table 'test' of OWNER/NAME is not in"):
        tables("Set", source("OWNER/NAME"), tmp_path)


def test_two_tables_that_could_be_meant_are_an_error(tmp_path: Path) -> None:
    for folder in ("test_1k", "test_3k"):
        write_parquet(tmp_path / "NAME" / folder / "test-00000-of-00001.parquet", ROWS)
    with pytest.raises(DataInvalid, match=r"Set: could be in each of .*test_1k, .*test_3k"):
        tables("Set", source("OWNER/NAME"), tmp_path)


def note_hash(repository: Path, file: str, published: str) -> None:
    """Writes what `hf download` notes about a file."""
    note = repository / ".cache/huggingface/download" / f"{file}.metadata"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{'0' * 40}\n{published}\n1712656091.123\n", encoding="utf-8")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.mark.parametrize("published", [sha256, git_sha1])
def test_a_file_that_is_not_the_published_one_is_named(tmp_path: Path, published: Callable[[bytes], str]) -> None:
    file = write_lines(tmp_path / "NAME/data/test.jsonl", ROWS)
    content = file.read_bytes()
    note_hash(tmp_path / "NAME", "data/test.jsonl", published(content))
    assert verified_sha256(file) == sha256(content)
    assert tables("Set", source("OWNER/NAME"), tmp_path) == [file]
    file.write_bytes(content.replace(b"b", b"c"))
    with pytest.raises(DataInvalid, match=r"data/test.jsonl is not what was published"):
        tables("Set", source("OWNER/NAME"), tmp_path)


def test_a_file_without_a_published_hash_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "set.jsonl", ROWS)
    assert verified_sha256(file) == sha256(file.read_bytes())


def tar(names: list[str]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(name[-7:-4].encode()))
    return content.getvalue()


def write_parts(mirror: Path, content: bytes, count: int) -> list[Path]:
    (mirror / "video-tasks/frames").mkdir(parents=True)
    size = -(-len(content) // count)
    parts = [mirror / f"{QA}.tar.gz-{number:02}" for number in range(count)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * size : (number + 1) * size])
    return parts


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("top", ["video_qa/", ""])
def test_parts_of_several_tars_in_a_row_are_unpacked_whole(tmp_path: Path, top: str) -> None:
    first, second = tar([f"{top}MVBench/a.jpg"]), tar([f"{top}NExTQA/b.jpg", f"{top}NExTQA/c.jpg"])
    write_parts(tmp_path, gzip.compress(first) + gzip.compress(second), 3)
    assert files(unpacked(tmp_path, QA)) == ["MVBench/a.jpg", "NExTQA/b.jpg", "NExTQA/c.jpg"]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_part_that_is_missing_or_cut_short_is_an_error(tmp_path: Path, lost: int) -> None:
    content = gzip.compress(tar([f"video_qa/{number}.jpg" for number in range(50)]))
    damages: tuple[Callable[[Path], None], ...] = (Path.unlink, cut_short)
    for case, damage in enumerate(damages):
        mirror = tmp_path / str(case)
        damage(write_parts(mirror, content, 3)[lost])
        before = contents(mirror)
        with pytest.raises(DataInvalid, match=r"video_qa.tar.gz \(.*\) is broken or incomplete"):
            unpacked(mirror, QA)
        assert contents(mirror) == before


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    write_parts(tmp_path, gzip.compress(tar(["../../escaped.jpg"])), 1)
    with pytest.raises(DataInvalid, match="is broken or incomplete"):
        unpacked(tmp_path, QA)
    assert not list(tmp_path.rglob("escaped.jpg"))
