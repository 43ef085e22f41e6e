import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.backends.precomputed import PrecomputedEmbedder, write_precomputed
from components.corpus import Item
from components.embedder import TorchEmbedder, Vectors
from components.errors import EmbedlineError, UsageError


@pytest.fixture
def root(image_files: list[Path]) -> Path:
    return image_files[0].parent


@pytest.fixture
def items(image_files: list[Path]) -> list[Item]:
    """Items that differ in one field each, among them texts that would break a file of lines."""
    return [
        Item("a cat"),
        Item("a cat", instruction="find"),
        Item("a cat", image_files[0]),
        Item(image=image_files[0]),
        Item(image=image_files[1]),
        Item(video=tuple(image_files[:2])),
        Item(video=tuple(image_files[1::-1])),
        Item('two\nlines\r, "quotes", \u2028 and 😀'),
    ]


@pytest.fixture
def vectors(items: list[Item]) -> Vectors:
    return np.random.default_rng(1).normal(size=(len(items), 6)).astype(np.float32)


@pytest.fixture
def folder(items: list[Item], vectors: Vectors, root: Path, tmp_path: Path) -> Path:
    write_precomputed(tmp_path / "vectors", items, vectors, root)
    return tmp_path / "vectors"


def test_each_item_finds_its_vector_in_any_order(folder: Path, items: list[Item], vectors: Vectors, root: Path) -> None:
    embedder = PrecomputedEmbedder(folder, root)
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = embedder.encode(items[::-1])
    np.testing.assert_allclose(found[::-1], expected, atol=1e-6)
    assert found.dtype == np.float32 and found.shape == (8, embedder.dimension)
    assert isinstance(embedder.vectors, np.memmap)
    assert embedder.encode([]).shape == (0, 6)


def test_the_folder_can_be_read_where_the_data_lies_elsewhere(
    folder: Path, items: list[Item], vectors: Vectors
) -> None:
    elsewhere = Path("/elsewhere")
    moved = Item(image=elsewhere / items[4].image.name)  # type: ignore[union-attr]
    found = PrecomputedEmbedder(folder, elsewhere).encode([moved])
    np.testing.assert_allclose(found[0], vectors[4] / np.linalg.norm(vectors[4]), atol=1e-6)


def test_a_line_written_by_hand_names_its_item_in_any_order_of_fields(root: Path, tmp_path: Path) -> None:
    line = {"instruction": "find", "video": [], "image": "0.png", "text": "a cat"}
    (tmp_path / "items.jsonl").write_text(json.dumps(line) + "\n")
    np.save(tmp_path / "vectors.npy", np.array([[0.0, 2.0]]))
    found = PrecomputedEmbedder(tmp_path, root).encode([Item("a cat", root / "0.png", instruction="find")])
    np.testing.assert_array_equal(found, [[0, 1]])


def test_a_root_is_the_same_folder_however_it_is_written(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    whole = PrecomputedEmbedder(folder, root).encode([Item(image=root / "0.png")])
    for here, image in ((Path(root.name), root / "0.png"), (root, Path(root.name) / "0.png")):
        np.testing.assert_array_equal(PrecomputedEmbedder(folder, here).encode([Item(image=image)]), whole)


def test_vectors_of_a_model_are_those_of_the_model(embedder: TorchEmbedder, root: Path, tmp_path: Path) -> None:
    items = [Item("a cat"), Item(image=root / "1.png"), Item("a red tree", root / "2.png", instruction="find")]
    write_precomputed(tmp_path / "vectors", items, embedder.encode(items), root)
    np.testing.assert_allclose(
        PrecomputedEmbedder(tmp_path / "vectors", root).encode(items), embedder.encode(items), atol=1e-6
    )


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4"])
def test_other_floats_become_float32(kind: str, folder: Path, items: list[Item], vectors: Vectors, root: Path) -> None:
    np.save(folder / "vectors.npy", vectors.astype(kind))
    found = PrecomputedEmbedder(folder, root).encode(items)
    assert found.dtype == np.float32 and found.dtype.isnative
    np.testing.assert_allclose(found, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-3)


def test_an_item_without_a_vector_is_named(folder: Path, items: list[Item], root: Path) -> None:
    embedder = PrecomputedEmbedder(folder, root)
    for item, name in (
        (Item("a dog"), '"text": "a dog"'),
        (Item("a cat", instruction="one"), '"instruction": "one"'),
        (Item("a cat", root / "1.png"), '"image": "1.png"'),
        (Item(video=(root / "0.png",)), r'"video": \["0.png"\]'),
    ):
        with pytest.raises(EmbedlineError, match=name):
            embedder.encode([items[0], item])


def test_an_image_that_is_no_file_below_the_root_is_refused(folder: Path, root: Path, tmp_path: Path) -> None:
    embedder = PrecomputedEmbedder(folder, root)
    outside = Item(image=tmp_path / "0.png")
    for item in (outside, Item(image=b"bytes"), Item(image=Image.new("RGB", (2, 2)))):
        with pytest.raises(UsageError, match=f"is not below {root}"):
            embedder.encode([item])
    with pytest.raises(UsageError, match="is not below"):
        write_precomputed(tmp_path / "new", [outside], np.ones((1, 2), np.float32), root)
    assert not list(tmp_path.glob("*new*"))


def test_as_many_vectors_as_items_are_written_or_none(items: list[Item], vectors: Vectors, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="7 vectors for 8 items"):
        write_precomputed(tmp_path / "new", items, vectors[:7], tmp_path)
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "items.jsonl: "),
        ("[]", "line 9 is no item"),
        ("{}", "line 9 is no item"),
        ('{"txt": "a dog"}', "line 9 is no item"),
        ('{"text": "a cat", "image": null}', "line 9 names an item that an earlier line names too"),
        ('{"text": "a dog"}', "names 9 items, and vectors.npy has 8 rows"),
    ],
)
def test_lines_that_are_no_items_are_refused(line: str, message: str, folder: Path, root: Path) -> None:
    with (folder / "items.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(UsageError, match=message):
        PrecomputedEmbedder(folder, root)


def test_files_that_are_no_vectors_are_refused(folder: Path, vectors: Vectors, root: Path) -> None:
    file = folder / "vectors.npy"
    whole = file.read_bytes()
    for content in (b"", b"no vectors", whole[:100]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=str(file)):
            PrecomputedEmbedder(folder, root)
    for array in (vectors.astype(np.int32), vectors[0], vectors.astype(object)):
        np.save(file, array)
        with pytest.raises(UsageError, match=str(file)):
            PrecomputedEmbedder(folder, root)
    file.unlink()
    with pytest.raises(UsageError, match=str(file)):
        PrecomputedEmbedder(folder, root)


def test_a_line_is_readable(folder: Path) -> None:
    lines = (folder / "items.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[1]) == {"text": "a cat", "instruction": "find"}
    assert json.loads(lines[5]) == {"video": ["0.png", "1.png"]} and "😀" in lines[7]
