"""Images of emoji: in colour (Noto) and as line art of another font (Symbola)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from components.corpus.sources.emoji.characters import Emoji
from components.errors import EmbedlineError

COLOUR_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LINE_ART_FONT = Path("/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf")
BITMAP_SIZE = 109  # the only size that the bitmaps of Noto Color Emoji come in


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        package = "fonts-noto-color-emoji" if path == COLOUR_FONT else "fonts-symbola"
        raise EmbedlineError(f"{path}: the font is missing", f"Install it with: apt-get install {package}")
    if not features.check("raqm"):
        raise EmbedlineError(
            "Pillow was built without Raqm, so emoji sequences cannot be drawn",
            "Install Pillow's wheel from PyPI: pip install --force-reinstall pillow",
        )
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.RAQM)


def colour_image(emoji: Emoji, size: int, path: Path = COLOUR_FONT) -> Image.Image:
    """Returns the emoji in colour, `(size, size)` RGBA, transparent around it."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), emoji.text, font=_font(path, BITMAP_SIZE), embedded_color=True)
    return _fit(canvas, size)


def line_art_image(emoji: Emoji, size: int, path: Path = LINE_ART_FONT) -> Image.Image | None:
    """Returns the emoji as black lines, `(size, size)` RGBA, or None where the font has no such sign."""
    points = emoji.concept
    if len(points) != 1 or _mask(path, size, points[0]) == _mask(path, size, 0x10FFFF):
        return None
    canvas = Image.new("RGBA", (size * 3, size * 3))
    ImageDraw.Draw(canvas).text((size, size), chr(points[0]), font=_font(path, size), fill="black")
    return _fit(canvas, size)


def on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _mask(path: Path, size: int, point: int) -> bytes:
    return bytes(_font(path, size).getmask(chr(point)))


def _fit(canvas: Image.Image, size: int) -> Image.Image:
    box = canvas.getbbox()
    if box is None:
        return Image.new("RGBA", (size, size))
    glyph = canvas.crop(box)
    scale = size / max(glyph.size)
    glyph = glyph.resize(
        (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.BILINEAR
    )
    image = Image.new("RGBA", (size, size))
    image.paste(glyph, ((size - glyph.width) // 2, (size - glyph.height) // 2))
    return image
