"""Which pairs of a data set belong together: equal captions, and images that look the same.

What belongs together is one group: a split never separates it, and none of its members is another's wrong candidate.
Images are compared by a difference hash (N. Krawetz, Kind of Like That, 2013) of 16x16 places, cut into bands: only
images that share a band are compared, pixel by pixel in small. Work grows with the number of images, not its square;
an image leaves a few hundred bytes behind.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.corpus.images import EXTENSIONS

PLACES = 16
BANDS = 8
STEP = 4
"""A difference of grey below this is noise, to the hash."""
SMALL = 32
MEAN_TOLERANCE, LARGEST_TOLERANCE = 2.0, 32
"""How far two small images may differ, of 255: on average, and anywhere. A new encoding stays within these."""
FLAT = 4.0
"""Images whose colours deviate less from their mean show nothing to compare: they must be equal."""
NEIGHBOURS = 8
LABEL_SHARE, LABEL_IMAGES = 0.02, 5
Pixels = NDArray[np.int16]


class Sets:
    """Disjoint sets of the numbers below `count`, to be joined."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, number: int) -> int:
        """Returns the number that stands for the set that holds `number`."""
        root = number
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[number] != root:
            self._parents[number], number = root, self._parents[number]
        return root

    def join(self, one: int, other: int) -> bool:
        """Makes one set of two; returns whether they were two."""
        one, other = sorted((self.find(one), self.find(other)))
        self._parents[other] = one
        return one != other


def same_caption(text: str) -> str:
    """Returns what two captions have in common that differ in case and white space alone."""
    return " ".join(text.casefold().split())


def words(text: str) -> tuple[str, ...]:
    """Returns the words of a text in alphabetical order, without case and punctuation."""
    return tuple(sorted(re.findall(r"\w+", text.casefold())))


def labels_of(pairs: Sequence[tuple[int, int]], images: int) -> set[int]:
    """Returns the captions, of pairs `(image, caption)`, that so many images share that they are labels.

    A label is shared by at least 2 % of the images and by at least five; a single one tells nothing apart, and is none.
    """
    sharing: defaultdict[int, set[int]] = defaultdict(set)
    for image, text in pairs:
        sharing[text].add(image)
    least = max(LABEL_IMAGES, LABEL_SHARE * images)
    found = {text for text, having in sharing.items() if len(having) >= least}
    return found if len(found) > 1 else set()


def small(image: bytes | Path) -> Pixels:
    """Returns `(32, 32, 3)` 0 to 255, of the image as the model sees it: on white, square."""
    source = io.BytesIO(image) if isinstance(image, bytes) else image
    with Image.open(source, formats=tuple(EXTENSIONS)) as opened:
        seen = opened.convert("RGBA")
    ground = Image.new("RGBA", seen.size, "white")
    ground.alpha_composite(seen)
    return np.asarray(ground.convert("RGB").resize((SMALL, SMALL), Image.Resampling.BOX), np.int16)


def difference_hash(pixels: Pixels) -> bytes:
    """Returns 32 bytes, a bit for each of 16x16 places: whether it is clearly brighter than its right neighbour."""
    grey = Image.fromarray(pixels.astype(np.uint8)).convert("L").resize((PLACES + 1, PLACES), Image.Resampling.BOX)
    brightness = np.asarray(grey, np.int16)
    return np.packbits(brightness[:, :-1] > brightness[:, 1:] + STEP).tobytes()


def look_the_same(one: Pixels, other: Pixels) -> bool:
    """Returns whether two small images differ by no more than another size or encoding of one image does."""
    if min(each.std((0, 1)).max() for each in (one, other)) < FLAT:
        return bool((one == other).all())
    apart = np.abs(one - other)
    return bool(apart.mean() <= MEAN_TOLERANCE and apart.max() <= LARGEST_TOLERANCE)


class Looks:
    """What is remembered of every image: its hash, its mean colour, and where it lies."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._hashes: list[bytes] = []
        self._colours: list[bytes] = []

    def add(self, content: bytes, file: Path) -> None:
        pixels = small(content)
        self._files.append(file)
        self._hashes.append(difference_hash(pixels))
        self._colours.append(pixels.mean((0, 1)).astype(np.uint8).tobytes())

    def near_duplicates(self) -> Iterator[tuple[int, int]]:
        """Yields pairs of images that look the same, by the order in which they were added."""
        compared = set()
        for band in range(BANDS):
            sharing: defaultdict[bytes, list[int]] = defaultdict(list)
            for number, bits in enumerate(self._hashes):
                sharing[bits[band::BANDS]].append(number)
            for numbers in sharing.values():
                numbers.sort(key=lambda number: (self._colours[number], self._hashes[number]))
                for place, one in enumerate(numbers):
                    for other in numbers[place + 1 : place + 1 + NEIGHBOURS]:
                        pair = min(one, other), max(one, other)
                        if self._may_look_the_same(*pair) and pair not in compared:
                            compared.add(pair)
                            if look_the_same(small(self._files[pair[0]]), small(self._files[pair[1]])):
                                yield pair

    def _may_look_the_same(self, one: int, other: int) -> bool:
        apart = int.from_bytes(self._hashes[one]) ^ int.from_bytes(self._hashes[other])
        colours = zip(self._colours[one], self._colours[other], strict=True)
        return apart.bit_count() <= PLACES and all(abs(a - b) <= MEAN_TOLERANCE + 1 for a, b in colours)
