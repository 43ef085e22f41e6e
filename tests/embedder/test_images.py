"""Every image becomes the same pixels wherever it is read: upright, on white, in 8 bits."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from components.embedder.runtime import MAX_IMAGE_PIXELS, Description, UnreadableImage, load_image, pixel_values
from components.training.features import square

DESCRIPTION = Description(8, 16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 8, 0.0, (8,))
TURNED = {  # of an upright image, what a camera stores under each orientation (EXIF 2.32, 4.6.4 A)
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def noise(width: int = 24, height: int = 10) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def equal(source: bytes, expected: Image.Image) -> bool:
    return np.array_equal(np.asarray(load_image(source)), np.asarray(expected))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("decoded", [False, True])
def test_an_image_is_turned_as_its_exif_data_say(orientation: int, decoded: bool) -> None:
    upright, turn = noise(), TURNED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = stored(upright.transpose(turn) if turn is not None else upright, exif=exif)
    loaded = load_image(Image.open(io.BytesIO(content)) if decoded else content)
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(upright))
    assert orientation == 1 or not np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(upright))


def grey_of_16_bits() -> tuple[bytes, Image.Image]:
    levels = np.linspace(0, 65535, 240).astype(np.uint16).reshape(10, 24)
    return stored(Image.fromarray(levels)), Image.fromarray((levels // 256).astype(np.uint8)).convert("RGB")


def transparent_palette() -> tuple[bytes, Image.Image]:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((3, 1), 1)
    expected = Image.new("RGB", (4, 2), "white")
    expected.putpixel((3, 1), (0, 255, 0))
    return stored(image, transparency=0), expected


def animated() -> tuple[bytes, Image.Image]:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    return stored(frames[0], "GIF", save_all=True, append_images=frames[1:]), frames[0]


KINDS: dict[str, Callable[[], tuple[bytes, Image.Image]]] = {
    "grey of 16 bits": grey_of_16_bits,
    "palette with a transparent colour": transparent_palette,
    "animated": animated,
    "grey": lambda: (stored(noise().convert("L")), noise().convert("L").convert("RGB")),
    "black and white": lambda: (stored(noise().convert("1")), noise().convert("1").convert("RGB")),
    "transparent": lambda: (stored(Image.new("RGBA", (3, 3), (9, 9, 9, 0))), Image.new("RGB", (3, 3), "white")),
    "CMYK": lambda: (stored(Image.new("CMYK", (3, 3), (255, 0, 0, 0)), "TIFF"), Image.new("RGB", (3, 3), "cyan")),
    "1x1": lambda: (stored(Image.new("RGB", (1, 1), "red")), Image.new("RGB", (1, 1), "red")),
    "very wide": lambda: (stored(noise(4000, 3)), noise(4000, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_any_kind_becomes_rgb_on_white(kind: str) -> None:
    content, expected = KINDS[kind]()
    assert equal(content, expected)
    assert not equal(content, ImageOps.invert(expected))


def test_a_large_image_is_read_to_the_limit_and_refused_beyond_it() -> None:
    width = 8000
    at_limit = Image.new("L", (width, MAX_IMAGE_PIXELS // width), 7)
    assert load_image(stored(at_limit)).size == at_limit.size
    with pytest.raises(UnreadableImage, match="pixels are read"):
        load_image(stored(Image.new("L", (width, MAX_IMAGE_PIXELS // width + 1))))


def test_several_threads_make_the_same_pixels_and_name_the_first_image_that_is_broken() -> None:
    images: list[Any] = [stored(noise(8 + number, 9)) for number in range(7)]
    with ThreadPoolExecutor(3) as pool:
        together = pixel_values(images, DESCRIPTION, pool)
        np.testing.assert_array_equal(together, pixel_values(images, DESCRIPTION))
        assert not np.array_equal(together, pixel_values(images[::-1], DESCRIPTION, pool))
        images[2], images[5] = stored(Image.new("L", (8000, 5001))), b"no image"
        with pytest.raises(UnreadableImage, match="pixels are read"):
            pixel_values(images, DESCRIPTION, pool)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_square_standardised_in_another_way(kind: str) -> None:
    image = load_image(KINDS[kind]()[0])
    found = pixel_values([image], DESCRIPTION)[0]
    shown = np.asarray(square(image, DESCRIPTION.image_size), np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.array(colours)[:, None, None] for colours in (DESCRIPTION.image_mean, DESCRIPTION.image_std))
    np.testing.assert_allclose(found, (shown - mean) / std, atol=1e-5)
    assert np.abs(found - shown).max() > 0.1, "pixels that are not standardised are others"
