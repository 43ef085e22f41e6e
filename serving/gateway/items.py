"""What a request asks vectors of: strings and content parts become the rows that Triton takes, checked undecoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict, TypeAdapter, ValidationError

from components.gateway import Gateway
from serving.client import Row
from serving.gateway.refusal import Refusal

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
"""Ten times as fast as the module base64, which takes longer than all else that is done to an image here."""
TOKENS = "token lists are not taken: send the text itself (in LangChain: check_embedding_ctx_length=False)"


@dataclass(frozen=True)
class RemoteImage:
    """An item whose image is still to be fetched."""

    text: bytes
    url: str
    instruction: bytes

    def row(self, image: bytes) -> Row:
        return self.text, image, self.instruction


def items_of(content: Any, instruction: Any, settings: Gateway) -> list[Row | RemoteImage | Refusal]:
    """Returns each item of `input`, or why it is none. Raises `Refusal` 400 for what has no items at all."""
    if isinstance(content, str) or (content and isinstance(content, list) and isinstance(content[0], dict)):
        content = [content]
    if not isinstance(content, list) or not content:
        raise Refusal(400, "input is a string, a list of strings, content parts, or a list of these", param="input")
    if isinstance(content[0], int):
        raise Refusal(400, TOKENS, param="input", code="tokens")
    if len(content) > settings.max_items:
        what = f"input has {len(content)} items; a request has at most {settings.max_items}"
        raise Refusal(400, what, param="input", code="too_many_items")
    instructions = instruction if isinstance(instruction, list) else [instruction] * len(content)
    if len(instructions) != len(content):
        what = f"there are {len(instructions)} instructions for {len(content)} items"
        raise Refusal(400, what, param="instruction")
    return [item_of(position, *pair, settings) for position, pair in enumerate(zip(content, instructions, strict=True))]


def item_of(position: int, content: Any, instruction: str | None, settings: Gateway) -> Row | RemoteImage | Refusal:
    """Returns one item, or the refusal of it."""
    try:
        asked = checked_text(instruction, "the instruction", settings) if instruction else b""
        if isinstance(content, str):
            if not content:
                raise Refusal(400, "the text is empty", code="empty_item")
            return checked_text(content, "the text", settings), b"", asked
        text, source = parts_of(content)
        words = checked_text(text, "the text", settings) if text else b""
        if source and source.partition(":")[0].lower() in ("http", "https"):
            return RemoteImage(words, source, asked)
        image = checked_image(decoded(source, settings), settings) if source else b""
        if not words and not image:
            raise Refusal(400, "the item has neither text nor image", code="empty_item")
        return words, image, asked
    except Refusal as refusal:
        return refusal.of_item(position)


def parts_of(content: Any) -> tuple[str | None, str | None]:
    """Returns the text and the image's address of one item's content parts."""
    if isinstance(content, list) and content and isinstance(content[0], int):
        raise Refusal(400, TOKENS, code="tokens")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Refusal(400, "an item is a string or a list of content parts")
    found: dict[str, str] = {}
    for part in content:
        kind = part.get("type")
        value = part.get(kind) if kind in ("text", "image_url") else None
        if kind == "image_url" and isinstance(value, dict):
            value = value.get("url")
        if not isinstance(value, str):
            raise Refusal(
                400,
                'a content part is {"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}',
            )
        if kind in found:
            raise Refusal(400, f"an item has at most one part of type {kind}")
        found[kind] = value
    return found.get("text"), found.get("image_url")


def checked_text(text: Any, what: str, settings: Gateway) -> bytes:
    """Returns the text in UTF-8. Raises `Refusal` if it is none, too long, or has a NUL."""
    if not isinstance(text, str):
        raise Refusal(400, f"{what} is no string")
    if len(text) > settings.max_text_characters:
        long = f"{what} has {len(text):,} characters; at most {settings.max_text_characters:,} are read"
        raise Refusal(400, long, code="text_too_long")
    if "\0" in text:
        raise Refusal(400, f"{what} has a NUL", code="invalid_text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Refusal(400, f"{what} is no Unicode text", code="invalid_text") from error


def decoded(source: str, settings: Gateway) -> bytes:
    """Returns the bytes of a data URI or of plain base64. Raises `Refusal` before too large ones are decoded."""
    scheme, comma, data = source.partition(",")
    if comma and not (scheme.lower().startswith("data:") and scheme.lower().endswith(";base64")):
        raise Refusal(400, "an image is data:image/...;base64,..., base64, or an address", code="invalid_image")
    data = data if comma else source
    if len(data) // 4 * 3 > settings.max_image_bytes + 2:
        raise too_many_bytes(settings)
    try:
        return BASE64.validate_json(f'"{data}"')
    except ValidationError as error:
        raise Refusal(400, "the image is not base64", code="invalid_image") from error


def checked_image(data: bytes, settings: Gateway) -> bytes:
    """Returns an image file that is small enough, by its header alone. Raises `Refusal` for any other."""
    if len(data) > settings.max_image_bytes:
        raise too_many_bytes(settings)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Refusal(400, "the image has too many pixels", code="too_many_pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        message = "the image cannot be decoded; send PNG, JPEG, WebP or GIF"
        raise Refusal(400, message, code="invalid_image") from error
    if width * height > settings.max_image_pixels:
        many = f"the image is {width}x{height}; at most {settings.max_image_pixels:,} pixels are read"
        raise Refusal(400, many, code="too_many_pixels")
    return data


def too_many_bytes(settings: Gateway) -> Refusal:
    return Refusal(400, f"an image has at most {settings.max_image_bytes:,} bytes", code="too_many_bytes")


def good(items: Sequence[Row | RemoteImage | Refusal]) -> list[int]:
    """Returns the positions of the items that are not refused."""
    return [position for position, item in enumerate(items) if not isinstance(item, Refusal)]
