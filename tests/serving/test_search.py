"""Search finds the nearest images exactly; its index belongs to one model and one data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from components.corpus import TRAIN_SCHEMA, Item
from components.corpus.layout import write_rows
from components.errors import EmbedlineError
from serving import TritonEmbedder, TritonServer
from serving.search import Entry, Index, build_index, named_images, open_index, search

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


class Counting:
    """Passes on to an encoder, and counts the items."""

    def __init__(self, encoder: TritonEmbedder) -> None:
        self.encoder = encoder
        self.encoded = 0

    def encode(self, items: Sequence[Item]) -> np.ndarray:
        self.encoded += len(items)
        return self.encoder.encode(items)


@pytest.fixture
def entries(tmp_path: Path, png: Callable[..., bytes]) -> list[Entry]:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    return [Entry(f"the colour {colour}", str(tmp_path / f"{colour}.png")) for colour in COLOURS]


def test_an_image_finds_itself_first(server: TritonServer, entries: list[Entry]) -> None:
    embedder = TritonEmbedder(server.url, version=1)
    index = build_index(embedder, entries)
    for entry in entries:
        best, *others = search(index, embedder.encode([Item(image=Path(entry.image_path))])[0], top=3)
        assert (best.text, best.image_path) == entry
        assert best.score == pytest.approx(1, abs=1e-5)
        assert best.score >= others[0].score >= others[1].score


def test_search_is_exact_and_breaks_ties_by_order() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    vectors[7] = vectors[3]
    index = Index(vectors, tuple(Entry(str(row), "") for row in range(500)))
    assert [hit.text for hit in search(index, vectors[3], top=500)] == [
        str(row) for row in sorted(range(500), key=lambda row: (-float((vectors @ vectors[3])[row]), row))
    ]
    assert len(search(index, vectors[3])) == 10


def test_the_index_is_kept_until_model_or_data_change(
    server: TritonServer, entries: list[Entry], tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    encoder = Counting(TritonEmbedder(server.url, version=1))

    def encoded(chosen: list[Entry], fingerprint: str = "model", dataset_digest: str = "data") -> int:
        before = encoder.encoded
        index = open_index(folder, encoder, lambda: chosen, fingerprint, dataset_digest)
        assert index.entries == tuple(dict.fromkeys(chosen))
        return encoder.encoded - before

    assert encoded(entries + entries[:2]) == len(entries)
    assert encoded(entries + entries[:2]) == 0
    assert encoded(entries, fingerprint="other model") == len(entries)
    assert encoded(entries, dataset_digest="other data") == len(entries)
    assert all(path.suffix == ".npz" for path in folder.iterdir())


def test_a_saved_index_answers_as_the_built_one(server: TritonServer, entries: list[Entry], tmp_path: Path) -> None:
    embedder = TritonEmbedder(server.url, version=2)
    built, saved = (open_index(tmp_path / "index", embedder, lambda: entries, "model", "data") for _ in range(2))
    np.testing.assert_array_equal(built.vectors, saved.vectors)
    assert built.entries == saved.entries


def test_a_missing_image_fails_the_index_and_leaves_no_file(
    server: TritonServer, entries: list[Entry], tmp_path: Path
) -> None:
    with pytest.raises(EmbedlineError, match=r"item 7 \(.*missing.png\) cannot be read"):
        broken = [*entries, Entry("gone", "missing.png")]
        open_index(tmp_path / "index", TritonEmbedder(server.url), lambda: broken, "model", "data")
    assert not (tmp_path / "index").exists()


def test_an_image_goes_by_the_text_that_is_most_its_own(tmp_path: Path) -> None:
    rows = [
        ("", "cat.png", "Animals", ""),
        ("", "dog.png", "Animals", ""),
        ("a cat", "", "", "cat.png"),
        ("a dog", "", "", "dog.png"),
        ("what is it?", "scene.png", "a cat", ""),
        ("", "cat.png", "a cat", ""),
        ("", "dog.png", "a dog", ""),
        ("pet, whiskers", "", "", "cat.png"),
    ]
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path")
    empty = {"qry_inst": "", "pos_inst": "", "neg_text": "", "neg_image_path": ""}
    written = [dict(zip(names, row, strict=True)) | empty for row in rows]
    write_rows(tmp_path / "train" / "Task.parquet", TRAIN_SCHEMA, written)
    found = {Path(entry.image_path).name: entry.text for entry in named_images(tmp_path)}
    assert found == {"cat.png": "a cat", "dog.png": "a dog"}
