from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components import files
from components.embedder.runtime import UnreadableImage, load_image, square
from components.files import memory_mapped
from components.training.features import pixels, pooled_images, pooled_texts

from .conftest import MakeRecipe, untrained

ROWS = files.CHUNK + 20


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """More images than one chunk holds, each of another colour."""
    files = [tmp_path / f"{number}.png" for number in range(ROWS)]
    for number, file in enumerate(files):
        Image.new("RGB", (6, 9), (number % 256, number // 256 * 90, 7)).save(file)
    return files


def test_pixels_are_those_that_the_embedder_sees(images: list[Path], tmp_path: Path) -> None:
    found = pixels(images, 8, tmp_path / "work" / "images.npy")
    assert found.shape == (ROWS, 3, 8, 8) and found.dtype == np.uint8
    for row in (0, 1, files.CHUNK - 1, files.CHUNK, ROWS - 1):
        np.testing.assert_array_equal(found[row].transpose(1, 2, 0), np.asarray(square(load_image(images[row]), 8)))


def test_what_is_there_is_not_computed_again(images: list[Path], tmp_path: Path) -> None:
    first = np.array(pixels(images, 8, tmp_path / "work" / "images.npy"))
    for file in images:
        file.unlink()
    np.testing.assert_array_equal(pixels(images, 8, tmp_path / "work" / "images.npy"), first)
    with pytest.raises(UnreadableImage):
        pixels(images, 8, tmp_path / "elsewhere" / "images.npy")


def test_a_computation_that_stops_in_the_middle_leaves_nothing_under_its_name(
    images: list[Path], tmp_path: Path
) -> None:
    target, last = tmp_path / "work" / "images.npy", images[-1].read_bytes()
    images[-1].write_bytes(b"broken")
    with pytest.raises(UnreadableImage):
        pixels(images, 8, target)
    assert not list(target.parent.iterdir())
    images[-1].write_bytes(last)
    again = pixels(images, 8, target)
    np.testing.assert_array_equal(again, pixels(images, 8, tmp_path / "other.npy"))
    assert [file.name for file in target.parent.iterdir()] == ["images.npy"]


def test_a_file_without_rows_is_an_empty_array(tmp_path: Path) -> None:
    assert pixels([], 8, tmp_path / "images.npy").shape == (0, 3, 8, 8)


def test_chunks_cover_every_row_once(tmp_path: Path) -> None:
    asked: list[int] = []

    def chunk(start: int, stop: int) -> np.ndarray:
        asked.extend(range(start, stop))
        return np.arange(start, stop)

    for _ in range(2):
        np.testing.assert_array_equal(
            memory_mapped(tmp_path / "numbers.npy", (ROWS,), np.int64, chunk), np.arange(ROWS)
        )
    assert asked == list(range(ROWS))


def test_pooled_texts_come_back_in_the_order_of_the_texts(make_teaching: MakeRecipe, tmp_path: Path) -> None:
    encoder = untrained(make_teaching())
    texts = [
        "a sad cat",
        "one",
        "the happy dog is left of the red tree",
        "red",
        "a",
        "dog face",
        "cat",
        "tad",
        "blue one",
    ]
    pooled = pooled_texts(encoder, texts, tmp_path / "texts.npy", "float32")
    with torch.inference_mode():
        alone = torch.cat([encoder.pool_text(**encoder.tokens([text])) for text in texts]).numpy()
    np.testing.assert_allclose(pooled, alone, atol=1e-5)
    assert not np.allclose(pooled, alone[np.argsort([len(text) for text in texts], kind="stable")], atol=1e-2)
    np.testing.assert_array_equal(pooled_texts(encoder, texts, tmp_path / "texts.npy", "float32"), pooled)


def test_pooled_images_are_what_the_image_tower_puts_out(make_teaching: MakeRecipe, tmp_path: Path) -> None:
    encoder = untrained(make_teaching())
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 3, 16, 16), np.uint8)
    pooled = pooled_images(encoder, images, tmp_path / "pooled_images.npy", "float32")
    assert pooled.shape == (ROWS, 16)
    with torch.inference_mode():
        alone = torch.cat([encoder.pool_images(torch.from_numpy(one[None]).float() / 127.5 - 1) for one in images])
        projected = encoder.project_image(torch.from_numpy(np.array(pooled)))
        embedded = encoder.embed_images(torch.from_numpy(images).float() / 127.5 - 1)
    np.testing.assert_allclose(pooled, alone.numpy(), atol=1e-5)
    torch.testing.assert_close(projected, embedded, atol=1e-5, rtol=0)
