from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.corpus import Item
from components.errors import DataInvalid
from tests.evaluation.loaders.conftest import contents, cut_short, image_bytes, load, write_corpus, write_parquet

NAME, REPOSITORY = "ViDoRe_docvqa", "vidore/docvqa_test_subsampled_beir"
PAGES = {"p0": image_bytes(0), "p1": image_bytes(10, "JPEG"), "p2": image_bytes(20)}
QUERIES = {7: "how much?", 5: "who?"}
QRELS = [(5, "p2", 1), (7, "p2", 1), (7, "p0", 2), (7, "p1", 0), (7, "p2", 1)]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "mirror" / REPOSITORY, PAGES, QUERIES, QRELS)
    return tmp_path / "mirror"


def test_every_query_has_the_whole_corpus_as_candidates_with_its_grades(mirror: Path) -> None:
    first, second = load(NAME, mirror, 2, 3)
    assert [query.item for query in (first, second)] == [
        Item("how much?", instruction="Find a document image that matches the given query:"),
        Item("who?", instruction="Find a document image that matches the given query:"),
    ]
    assert first.candidates is second.candidates
    assert {item.instruction for item in first.candidates} == {"Understand the content of the provided document image."}
    pages = [item.image for item in first.candidates]
    assert [page.read_bytes() for page in pages if isinstance(page, Path)] == list(PAGES.values())
    assert [Path(str(page)).suffix for page in pages] == [".png", ".jpeg", ".png"]
    assert first.relevant == {0: 2.0, 2: 1.0} and second.relevant == {2: 1.0}


def test_processes_of_any_hash_seed_share_a_mirror_and_read_the_same(mirror: Path) -> None:
    many = {f"p{number}": image_bytes(number) for number in range(200)}
    write_corpus(mirror / REPOSITORY, many, QUERIES, QRELS)
    program = (
        "from pathlib import Path; from tests.evaluation.loaders.conftest import load; "
        f"print(load({NAME!r}, Path({str(mirror)!r}), 2, 200))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in ("0", "1")
    ]
    seen = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0] and len(seen) == 1


def test_pages_are_written_once_beside_the_mirror(mirror: Path) -> None:
    before = contents(mirror)
    (first, *_) = load(NAME, mirror, 2)
    page = Path(str(first.candidates[0].image))
    written = page.stat().st_mtime_ns
    assert contents(mirror) == before and page.parents[1] == mirror.parent / "mirror-pages"
    assert load(NAME, mirror, 2)[0].candidates == first.candidates
    assert page.stat().st_mtime_ns == written


def test_another_corpus_has_pages_of_its_own(mirror: Path) -> None:
    (before, *_) = load(NAME, mirror, 2)
    write_corpus(mirror / REPOSITORY, PAGES | {"p0": image_bytes(99)}, QUERIES, QRELS)
    (after, *_) = load(NAME, mirror, 2)
    assert Path(str(before.candidates[0].image)).read_bytes() == image_bytes(0)
    assert Path(str(after.candidates[0].image)).read_bytes() == image_bytes(99)


def test_pages_that_cannot_all_be_written_leave_nothing(mirror: Path) -> None:
    write_corpus(mirror / REPOSITORY, PAGES | {"p2": b"not an image"}, QUERIES, QRELS)
    with pytest.raises(DataInvalid, match=r"corpus/test-00001-of-00002.parquet: row 0: its image is broken"):
        load(NAME, mirror, 2)
    assert not contents(mirror.parent / "mirror-pages")


@pytest.mark.parametrize("place", ["mirror/TIGER-Lab/MMEB-V2", "mirror/MMEB-V2", "mirror"])
def test_the_copy_in_mmeb_v2_is_enough(tmp_path: Path, place: str) -> None:
    write_corpus(tmp_path / place / "visdoc-tasks/data/docvqa_test_subsampled_beir", PAGES, QUERIES, QRELS)
    assert len(load(NAME, tmp_path / "mirror", 2, 3)) == 2


def test_the_tables_of_visrag_are_of_another_split(tmp_path: Path) -> None:
    write_corpus(tmp_path / "openbmb/VisRAG-Ret-Test-ChartQA", PAGES, {"a-1": "x"}, [("a-1", "p1", 1)], "train")
    (query,) = load("VisRAG_ChartQA", tmp_path, 1, 3)
    assert query.relevant == {1: 1.0}


def test_a_shard_of_the_corpus_that_is_missing_is_named(mirror: Path) -> None:
    (mirror / REPOSITORY / "corpus/test-00001-of-00002.parquet").unlink()
    with pytest.raises(DataInvalid, match=r"corpus/test-00001-of-00002.parquet is missing"):
        load(NAME, mirror, 2)


@pytest.mark.parametrize("table", ["corpus", "queries", "qrels"])
def test_a_table_that_is_missing_or_cut_short_is_named(mirror: Path, table: str) -> None:
    file = next((mirror / REPOSITORY / table).iterdir())
    cut_short(file)
    with pytest.raises(DataInvalid, match=f"{file} cannot be read, it is broken or cut short"):
        load(NAME, mirror, 2)
    shutil.rmtree(file.parent)
    with pytest.raises(DataInvalid, match=f"ViDoRe_docvqa: the table '{table}' of {REPOSITORY} is not in"):
        load(NAME, mirror, 2)


def test_a_page_that_was_deleted_is_named(mirror: Path) -> None:
    (first, *_) = load(NAME, mirror, 2)
    Path(str(first.candidates[1].image)).unlink()
    with pytest.raises(DataInvalid, match=r"ViDoRe_docvqa: .*mirror-pages.* lacks page 1 of the corpus"):
        load(NAME, mirror, 2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"qrels": [*QRELS, (5, "p9", 1)]}, "qrels/.*: row 5: the page 'p9' is not in the corpus"),
        ({"qrels": [(7, "p0", 1), (5, "p0", 0)]}, "queries/.*: row 1: no page is relevant to the query 5"),
        ({"pages": PAGES | {"p1": b"not an image"}}, "corpus/test-00000-of-00002.parquet: row 1: its image is broken"),
        ({"pages": PAGES | {"p1": None}}, "corpus/test-00000-of-00002.parquet: row 1: is not as published"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(mirror: Path, changes: dict[str, Any], problem: str) -> None:
    tables: dict[str, Any] = {"pages": PAGES, "queries": QUERIES, "qrels": QRELS} | changes
    write_corpus(mirror / REPOSITORY, tables["pages"], tables["queries"], tables["qrels"])
    with pytest.raises(DataInvalid, match=problem):
        load(NAME, mirror, 2)


def test_a_page_that_occurs_twice_is_named(mirror: Path) -> None:
    shard = mirror / REPOSITORY / "corpus/test-00001-of-00002.parquet"
    write_parquet(shard, [{"corpus-id": "p0", "image": {"bytes": PAGES["p0"], "path": None}}])
    with pytest.raises(DataInvalid, match=r"test-00001-of-00002.parquet: row 0: the id 'p0' occurs twice"):
        load(NAME, mirror, 2)


@pytest.mark.parametrize(("queries", "candidates"), [(3, 3), (1, 3), (2, 4)])
def test_other_numbers_than_published_are_an_error(mirror: Path, queries: int, candidates: int) -> None:
    with pytest.raises(DataInvalid, match=r"ViDoRe_docvqa: .*: [23] in the mirror, [134] were published"):
        load(NAME, mirror, queries, candidates)
