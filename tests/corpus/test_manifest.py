"""The manifest is read as it was written, and its digest changes with every change of a file."""

from pathlib import Path

import pytest

from components.corpus import EvaluationTask, Input, Manifest, Tasks
from components.corpus.manifest import data_digest
from components.errors import DataInvalid, UsageError
from components.files import folder_sha256

MANIFEST = Manifest(
    name="shop",
    source="table",
    licence=["CC0-1.0"],
    inputs={"pairs.csv": Input(version="", sha256="00")},
    corpus={"seed": 7},
    seed=7,
    tasks=Tasks(
        train={"t": 3},
        eval={"t": EvaluationTask(rows=2, candidates=4, meta_task="retrieval", distribution="IND")},
    ),
    images=3,
    quarantined=0,
    digest="11",
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_a_missing_one_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is missing") as caught:
        Manifest.read(tmp_path)
    assert "embedline ingest" in caught.value.remedy


def test_a_broken_one_is_invalid_data(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "shop"}')
    with pytest.raises(DataInvalid, match="is no manifest"):
        Manifest.read(tmp_path)


def test_the_digest_sees_names_and_contents_but_not_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a")
    first = data_digest(tmp_path)
    MANIFEST.write(tmp_path)
    assert data_digest(tmp_path) == first
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "b.png")
    renamed = data_digest(tmp_path)
    (tmp_path / "images" / "b.png").write_bytes(b"b")
    assert len({first, renamed, data_digest(tmp_path)}) == 3


def test_the_same_files_have_the_same_hash_wherever_they_are(tmp_path: Path) -> None:
    for order in (("x", "y"), ("y", "x")):
        for name in order:
            folder = tmp_path / order[0] / "inside"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    assert folder_sha256(tmp_path / "x") == folder_sha256(tmp_path / "y")
