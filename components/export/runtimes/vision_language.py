"""A vision-language embedder as it is served: numpy, ONNX Runtime, tokenizers and Pillow, nothing else.

The graph knows no grid of an image: everything that depends on how large images are, and which token belongs to which,
is computed here, as transformers' processor and model compute it, and goes in as tensors.
`exporters/vision_language.py` writes the class, and what it refers to, to the `runtime.py` beside the graph, which
imports nothing of this project.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from components.embedder.runtime import (
    Colours,
    ImageSource,
    UnreadableImage,
    described,
    graph,
    load_image,
    provider_of,
    session,
)

DESCRIPTION, GRAPH, TOKENIZER = "vision_language.json", "model.onnx", "tokenizer.json"
OUTPUT = "sentence_embedding"
MAX_ASPECT_RATIO = 200
MOST_SCORES = 2**24
"""Attention scores of one head in one run; what one item needs is computed, however large."""
MARKERS = "\U000f0000\U000f0001"
"""What transformers marks control tokens in a user's text with; it drops them from that text first."""

Images = ImageSource | Sequence[ImageSource] | None
Grid = tuple[int, int]


@dataclass(frozen=True)
class Description:
    """What `vision_language.json` says about the graph beside it.

    `prompt` is what stands before and after an item's images and text; `instructed`, what stands before, between and
    after an instruction and these; `image`, what one image is written as, with `image_token` in it, which is repeated
    for each of the image's features. `default_instruction` is that of items without one, and `control_tokens` are what
    a user's text may hold but not mean (None: they mean what they say there, too). Texts are cut after `max_tokens`.
    `pixels` are the fewest and the most of a resized image. `merged` patches, in rows and in columns, make one feature.
    `window` is the side of an attention window in features, where vision layers have such; `table_side` that of the
    learned table of patch positions, where there is one. `pooling` is lasttoken, mean or cls.
    """

    dimension: int
    matryoshka_dimensions: tuple[int, ...]
    pooling: str
    prompt: tuple[str, str]
    instructed: tuple[str, str, str]
    image: str
    image_token: str
    default_instruction: str | None
    control_tokens: tuple[str, ...] | None
    max_tokens: int | None
    patch_size: int
    frames: int
    merged: int
    pixels: tuple[int, int]
    resample: int
    rescale_factor: float
    image_mean: Colours
    image_std: Colours
    window: int | None
    table_side: int | None

    @classmethod
    def read(cls, directory: Path) -> Description:
        return cls(**described(directory / DESCRIPTION))


@dataclass(frozen=True)
class Prepared:
    """One item as numbers: `ids` of its tokens, and of each image the patches `(rows * columns, values)` and the grid
    of patches."""

    ids: list[int]
    pixels: list[np.ndarray]
    grids: list[Grid]


class Preparation:
    """Turns items into the inputs of the graph."""

    def __init__(self, description: Description, tokenizer: Tokenizer) -> None:
        self.description = description
        self.tokenizer = tokenizer
        [self.image_id] = self.meant(description.image_token)
        levels = (np.arange(256, dtype=np.float64) * description.rescale_factor).astype(np.float32)
        mean, std = (np.asarray(values, np.float32) for values in (description.image_mean, description.image_std))
        self.levels = (levels[:, None] - mean) / std
        longest_first = sorted(description.control_tokens or (), key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.ending = common_ending(self.encode(self.chat("0", [])), self.encode(self.chat("1 2 3 4", [])))

    def item(self, text: str | None, images: Images, instruction: str | None) -> Prepared:
        """Returns the item's numbers. Raises `UnreadableImage`, and `ValueError` where its images leave no room or its
        text says that there is one more."""
        decoded = [self.resize(load_image(source)) for source in listed(images)]
        size = self.description.patch_size
        grids = [(image.height // size, image.width // size) for image in decoded]
        ids = self.encode(self.chat(text or "", grids, instruction))
        if ids.count(self.image_id) != sum(rows * columns for rows, columns in grids) // self.description.merged**2:
            raise ValueError(f"the text holds {self.description.image_token}, which stands for an image")
        return Prepared(self.cut(ids, bool(grids)), [self.patches(image) for image in decoded], grids)

    def chat(self, text: str, grids: Sequence[Grid], instruction: str | None = None) -> list[tuple[str, bool]]:
        """Returns the prompt in parts, each with whether it is a user's text."""
        known = self.description
        instruction = instruction or known.default_instruction
        if instruction:
            before, between, after = known.instructed
            head = [(before, False), (instruction, True), (between, False)]
        else:
            before, after = known.prompt
            head = [(before, False)]
        features = [rows * columns // known.merged**2 for rows, columns in grids]
        images = [known.image.replace(known.image_token, known.image_token * count) for count in features]
        return [*head, ("".join(images), False), (text, True), (after, False)]

    def encode(self, chat: Sequence[tuple[str, bool]]) -> list[int]:
        """Returns the tokens of the parts together. Control tokens in a user's text, where they may not mean what
        they say, are encoded as plain text, as transformers' `encode_marked_chat` does."""
        if self.description.control_tokens is None:
            ids: list[int] = self.tokenizer.encode("".join(part for part, _ in chat)).ids
            return ids
        pieces = [""]  # in turn: text that means what it says, a control token that does not
        for part, of_user in chat:
            if not of_user:
                pieces[-1] += part
                continue
            clean = part.translate(dict.fromkeys(map(ord, MARKERS)))
            start = 0
            for found in self.control.finditer(clean):
                pieces[-1] += clean[start : found.start()]
                pieces += [found.group(), ""]
                start = found.end()
            pieces[-1] += clean[start:]
        ids = self.meant(pieces[0])
        for number, piece in enumerate(pieces[1:], start=1):
            if piece:
                ids = ids + self.follow(piece, literal=number % 2 == 1)
        return ids

    def follow(self, piece: str, literal: bool) -> list[int]:
        """Returns the tokens of a piece that stands behind others, for which some tokenizers want something before."""
        encode = self.spelt if literal else self.meant
        newline, ids = self.meant("\n"), encode(f"\n{piece}")
        ids = ids[len(newline) :] if ids[: len(newline)] == newline else encode(piece)
        if literal and self.tokenizer.token_to_id(piece) in ids:
            raise ValueError(f"the text holds {piece!r}, which this model's tokenizer cannot tell from a control token")
        return ids

    def meant(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def spelt(self, text: str) -> list[int]:
        """Returns the tokens of a text in which no added token is seen."""
        tokenizer = self.tokenizer
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        words = (
            [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
            if tokenizer.pre_tokenizer
            else [normal]
        )
        return [token.id for word in words for token in tokenizer.model.tokenize(word)]

    def cut(self, ids: list[int], has_images: bool) -> list[int]:
        """Returns at most `max_tokens`. A text keeps the prompt's ending, as sentence-transformers has it. Raises
        `ValueError` if a feature of an image would be lost."""
        most = self.description.max_tokens
        if most is None or len(ids) <= most:
            return ids
        if not has_images:
            kept = min(len(self.ending), most)
            return ids[: most - kept] + self.ending[len(self.ending) - kept :]
        if self.image_id in ids[most:]:
            raise ValueError(f"the item's images and texts make {len(ids):,} tokens; at most {most:,} are read")
        return ids[:most]

    def resize(self, image: Image.Image) -> Image.Image:
        """Returns the image with both sides a multiple of a feature's; as transformers' `smart_resize`."""
        known = self.description
        width, height = image.size
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise UnreadableImage(
                f"the image is {width}x{height}; one side may be at most {MAX_ASPECT_RATIO} times the other"
            )
        side = known.patch_size * known.merged
        fewest, most = known.pixels
        rows, columns = round(height / side) * side, round(width / side) * side
        if rows * columns > most:
            scale = math.sqrt(height * width / most)
            rows = max(side, math.floor(height / scale / side) * side)
            columns = max(side, math.floor(width / scale / side) * side)
        elif rows * columns < fewest:
            scale = math.sqrt(fewest / (height * width))
            rows = math.ceil(height * scale / side) * side
            columns = math.ceil(width * scale / side) * side
        return image.resize((columns, rows), Image.Resampling(known.resample))

    def patches(self, image: Image.Image) -> np.ndarray:
        """Returns `(patches, values)` float32, the patches of a feature together, a still image's frames alike."""
        known = self.description
        size, merged = known.patch_size, known.merged
        brightness = np.asarray(image)
        standardised = np.stack([self.levels[brightness[..., channel], channel] for channel in range(3)])
        rows, columns = image.height // size, image.width // size
        split = standardised.reshape(3, rows // merged, merged, size, columns // merged, merged, size)
        ordered = split.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]
        repeated = np.broadcast_to(ordered, (*ordered.shape[:5], known.frames, size, size))
        return repeated.reshape(rows * columns, -1)

    def batch(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        """Returns the graph's inputs, for n items of at most t tokens, with p patches in f features.

        `input_ids (n, t)`, padded on the right; `position_ids (3, n, t)`; `feature_rows (n, t)`: the row of the image
        feature that takes the token's place, or -1; `pooling (n, t)` float32: what each token counts in the vector;
        `pixel_values (f, p/f, values)` float32; `patch_positions (f, p/f, 2)`: row and column; `image_patches (images,
        most)`: the numbers of an image's patches, filled up with -1; `image_slots (p,)`: where in the flattened
        `image_patches` each patch is; `window_patches` and `window_slots`, the same of attention windows; `table_rows
        (f, p/f, 4)` and `table_weights (f, p/f, 4)` float32, which interpolate the table of patch positions.

        A batch without images has one feature of zeros, which no token takes.
        """
        known = self.description
        merged = known.merged
        grids = [grid for item in items for grid in item.grids]
        pixels = [part for item in items for part in item.pixels]
        if not grids:
            grids = [(merged, merged)]
            pixels = [np.zeros((merged**2, 3 * known.frames * known.patch_size**2), np.float32)]
        positions = [patch_positions(grid, merged) for grid in grids]
        starts = np.cumsum([0, *(rows * columns for rows, columns in grids)])[:-1]
        whole = [np.arange(rows * columns) + start for (rows, columns), start in zip(grids, starts, strict=True)]
        inputs = self.texts(items) | {
            "pixel_values": np.concatenate(pixels).reshape(-1, merged**2, pixels[0].shape[1]),
            "patch_positions": np.concatenate(positions),
        }
        inputs["image_patches"], inputs["image_slots"] = packed(whole)
        if known.window:
            side = known.window * merged
            windows = [
                patches[inside]
                for patches, place in zip(whole, positions, strict=True)
                for inside in windows_of(place.reshape(-1, 2) // side)
            ]
            inputs["window_patches"], inputs["window_slots"] = packed(windows)
        if known.table_side:
            taps = [interpolation(*pair, known.table_side) for pair in zip(positions, grids, strict=True)]
            inputs["table_rows"], inputs["table_weights"] = (np.concatenate(part) for part in zip(*taps, strict=True))
        return inputs

    def texts(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        longest = max(len(item.ids) for item in items)
        shape = len(items), longest
        ids, rows = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        positions, pooling = np.zeros((3, *shape), np.int64), np.zeros(shape, np.float32)
        features = 0
        for number, item in enumerate(items):
            length = len(item.ids)
            ids[number, :length] = item.ids
            places = np.flatnonzero(ids[number, :length] == self.image_id)
            rows[number, places] = np.arange(features, features + len(places))
            features += len(places)
            positions[:, number, :length] = token_positions(ids[number, :length], self.image_id, self.features(item))
            if self.description.pooling == "mean":
                pooling[number, :length] = 1 / length
            else:
                pooling[number, length - 1 if self.description.pooling == "lasttoken" else 0] = 1
        return {"input_ids": ids, "position_ids": positions, "feature_rows": rows, "pooling": pooling}

    def features(self, item: Prepared) -> list[Grid]:
        """Returns the grid of features of each image."""
        merged = self.description.merged
        return [(rows // merged, columns // merged) for rows, columns in item.grids]


def listed(images: Images) -> list[ImageSource]:
    """Returns one image, several, or none, as a list."""
    if isinstance(images, bytes | str | Path | Image.Image):
        return [images] if images else []
    return list(images or [])


def common_ending(first: list[int], second: list[int]) -> list[int]:
    """Returns the tokens that both end with; nothing if one is the other's ending."""
    same = 0
    for left, right in zip(reversed(first), reversed(second), strict=False):
        if left != right:
            break
        same += 1
    return first[len(first) - same :] if same < min(len(first), len(second)) else []


def token_positions(ids: np.ndarray, image_id: int, grids: Iterable[Grid]) -> np.ndarray:
    """Returns `(3, tokens)`: time, row and column of each token; multimodal rotary positions (arXiv:2409.12191). A text
    advances all three; an image's features have one time, and the text behind them goes on past its longer side."""
    positions = np.empty((3, len(ids)), np.int64)
    remaining = iter(grids)
    token = position = 0
    while token < len(ids):
        if ids[token] != image_id:
            positions[:, token] = position
            token, position = token + 1, position + 1
            continue
        rows, columns = next(remaining)
        end = token + rows * columns
        positions[0, token:end] = position
        positions[1:, token:end] = position + np.indices((rows, columns)).reshape(2, -1)
        token, position = end, position + max(rows, columns)
    return positions


def patch_positions(grid: Grid, merged: int) -> np.ndarray:
    """Returns `(features, merged ** 2, 2)`: row and column of each patch, in the order of `Preparation.patches`."""
    rows, columns = grid
    places = np.indices(grid).reshape(2, rows // merged, merged, columns // merged, merged)
    return places.transpose(1, 3, 2, 4, 0).reshape(-1, merged**2, 2)


def windows_of(places: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the patches of each window, given `(patches, 2)`: the row and the column of each one's window."""
    numbers = places[:, 0] * (places[:, 1].max() + 1) + places[:, 1]
    for number in range(numbers.max() + 1):
        yield np.flatnonzero(numbers == number)


def packed(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(groups, most)`, filled up with -1, and `(patches,)`: where in it, flattened, each patch is."""
    longest = max(map(len, groups))
    table = np.full((len(groups), longest), -1, np.int64)
    slots = np.empty(sum(map(len, groups)), np.int64)
    for number, group in enumerate(groups):
        table[number, : len(group)] = group
        slots[group] = number * longest + np.arange(len(group))
    return table, slots


def interpolation(positions: np.ndarray, grid: Grid, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(features, patches, 4)`, the rows of a `side * side` table, and what each counts, such that its corners
    come to lie on the grid's corners (bilinear)."""
    taps, weights = [], []
    for axis, length in enumerate(grid):
        place = positions[..., axis].astype(np.float32) * np.float32(side - 1) / np.float32(max(length - 1, 1))
        floor = np.floor(place)
        near = floor.astype(np.int64)[..., None] + np.arange(2)
        distance = np.abs(place[..., None] - floor[..., None] - np.arange(2, dtype=np.float32))
        taps.append(near.clip(0, side - 1))
        weights.append((1 - distance).clip(min=0))
    rows = taps[0][..., :, None] * side + taps[1][..., None, :]
    counts = weights[0][..., :, None] * weights[1][..., None, :]
    return rows.reshape(*positions.shape[:2], 4), counts.reshape(*positions.shape[:2], 4)


class Runtime:
    """Encodes text, images, and both together, with the graph of one directory."""

    def __init__(
        self, directory: Path, threads: int | None = None, batch_size: int = 64, provider: str = "auto"
    ) -> None:
        self.description = Description.read(directory)
        self.batch_size = batch_size
        self.preparation = Preparation(self.description, Tokenizer.from_file(str(directory / TOKENIZER)))
        self.session = session(graph(directory, "model"), threads, provider)
        self.provider = provider_of(self.session)

    def encode(
        self, texts: Sequence[str | None], images: Sequence[Images], instructions: Sequence[str | None]
    ) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised. An element of `images` is an image, several, or None.

        Raises `UnreadableImage`, and `ValueError` if an item has neither text nor image, or more than the model reads.
        """
        empty = [row for row in range(len(texts)) if not (texts[row] or images[row])]
        if empty:
            raise ValueError(f"item {empty[0]} has neither text nor image")
        order = sorted(range(len(texts)), key=lambda row: (bool(images[row]), len(texts[row] or "")))
        prepared = ((row, self.preparation.item(texts[row], images[row], instructions[row])) for row in order)
        vectors = np.empty((len(texts), self.description.dimension), np.float32)
        for rows, items in batches(prepared, self.batch_size):
            vectors[rows] = self.session.run([OUTPUT], self.preparation.batch(items))[0]
        return vectors


def batches(prepared: Iterable[tuple[int, Prepared]], batch_size: int) -> Iterator[tuple[list[int], list[Prepared]]]:
    """Yields rows and items of each run of the graph: at most `batch_size`, and `MOST_SCORES` if there are several."""
    rows: list[int] = []
    items: list[Prepared] = []
    for row, item in prepared:
        if items and (len(items) == batch_size or scores([*items, item]) > MOST_SCORES):
            yield rows, items
            rows, items = [], []
        rows.append(row)
        items.append(item)
    if items:
        yield rows, items


def scores(items: Sequence[Prepared]) -> int:
    """Returns how many attention scores a head computes for the items together, of tokens and of patches."""
    patches = [rows * columns for item in items for rows, columns in item.grids]
    longest = max(len(item.ids) for item in items)
    return int(len(items) * longest**2 + len(patches) * max(patches, default=0) ** 2)
