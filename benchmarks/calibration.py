"""False alarms on traffic that did not change, and the smallest shifts that are found, beside Evidently's methods.

Requests are names and keywords of emoji and their images. The student in artifacts/student encodes them, or a stand-in
where there is none: all-MiniLM-L6-v2 for texts, and for images the pixels of a small copy in a fixed random projection,
which knows colour and shape and no more. Shifts are made of the requests (line art, another language, blur, words as a
swapped tokenizer would read them, colours as a broken normaliser would see them); a stale version is the same vectors
turned a little.

    python benchmarks/calibration.py            1,000 windows of each kind, 20 of each shift and size: 20 minutes
    python benchmarks/calibration.py --quick    100 windows, 5 of each shift and size: 4 minutes

A window of 200 requests against 400 takes 60 ms of one core, all tests and 99 permutations: a kernel matrix is computed
once a window, and all permutations are one product with it.
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from components.quiet import configure

configure()

# isort: split
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.stats import binom, poisson

from components.backends.open import open_embedder
from components.corpus import Item
from components.corpus.sources.emoji.characters import read_annotations, read_emoji
from components.corpus.sources.emoji.images import colour_image, line_art_image, on_white
from components.embedder import Embedder, TorchEmbedder, Vectors, find_model
from components.monitoring.config import Monitoring
from components.traffic import Window
from components.workspace import STUDENT
from monitoring.calibration import DAYS_A_MONTH, alarms, threshold
from monitoring.report import judge_window
from table import Row, show

TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
SIDE, SMALL, DIMENSION = 48, 16, 384
LEVEL, CONFIDENCE, FOUND = 0.05, 0.99, 0.95
SETTINGS = Monitoring(permutations=99, slices=[], min_requests=50, windows_a_day=24, false_alarms_per_month=4)
REFERENCE, WINDOW, SESSION = 400, 200, 10
SHIFTED_REFERENCE, SHIFTED_WINDOW = 1500, 1000
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
PEERS = ("mmd, bootstrap", "distance", "model", "ratio")
PEER_WINDOWS = 20
ANGLE = 0.2
"""By how much a stale version's vectors are turned, in radians, in every plane of two dimensions."""
Rows = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], Rows]
Test = Callable[[Window, Window], bool]
"""Whether a window is found to differ from a reference."""


@dataclass(frozen=True)
class Pool:
    """Requests to draw from: their vectors and modalities, and for each its nearest others of the same modality."""

    vectors: Vectors
    modalities: NDArray[np.str_]
    nearest: Rows

    def window(self, rows: Rows) -> Window:
        ids = np.arange(len(rows)).astype(str)
        return Window(self.vectors[rows], {"modality": self.modalities[rows], "request_id": ids}, len(rows))


class StandIn:
    """Texts by a small sentence encoder, images by the projected pixels of a small copy."""

    def __init__(self) -> None:
        self.texts, _ = open_embedder(find_model(TEXT_MODEL), 64)
        self.projection = np.random.default_rng(0).standard_normal((SMALL * SMALL * 3, DIMENSION)).astype(np.float32)

    def encode(self, items: Sequence[Item]) -> Vectors:
        images = [item.image for item in items if isinstance(item.image, Image.Image)]
        if not images:
            return np.asarray(self.texts.encode(items), np.float32)
        pixels = np.stack([np.asarray(image.resize((SMALL, SMALL)), np.float32).ravel() for image in images])
        vectors = (pixels / 255 - 0.8) @ self.projection
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the windows.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    windows, trials = (100, 5) if quick else (1000, 20)
    embedder: Embedder | StandIn = TorchEmbedder(STUDENT) if STUDENT.is_dir() else StandIn()
    texts, images = requests()
    pool = pool_of(embedder, [*texts, *images])
    rows = [*false_alarms(pool, windows), *power(pool, embedder, texts, images, trials)]
    traffic = f"{len(texts)} texts and {len(images)} images by {type(embedder).__name__}"
    show("Calibration", rows, machine, f"in brackets: the peer; {traffic}")


def requests() -> tuple[list[Item], list[Item]]:
    """Returns a text of the name and one of the keywords of each emoji without a skin tone, and its image."""
    english = read_annotations("en")
    emoji = [each for each in read_emoji() if not each.skin_tones and english.name(each)]
    names = [str(english.name(each)) for each in emoji]
    keywords = [" ".join(english.keywords_of(each)[:4]) for each in emoji]
    texts = [Item(text) for text in dict.fromkeys([*names, *keywords]) if text]
    return texts, [Item(image=on_white(colour_image(each, SIDE))) for each in emoji]


def pool_of(embedder: Embedder | StandIn, items: Sequence[Item]) -> Pool:
    vectors = encoded(embedder, items)
    modalities = np.array(["image" if item.image else "text" for item in items])
    cosines = vectors @ vectors.T
    cosines[modalities[:, None] != modalities] = -np.inf
    return Pool(vectors, modalities, np.argsort(-cosines, axis=1)[:, :SESSION].astype(np.int64))


def encoded(embedder: Embedder | StandIn, items: Sequence[Item]) -> Vectors:
    texts, images = ([item for item in items if bool(item.image) is with_image] for with_image in (False, True))
    found = iter(np.concatenate([embedder.encode(side) for side in (texts, images) if side]))
    by_item = {id(item): next(found) for item in (*texts, *images)}
    return np.stack([by_item[id(item)] for item in items])


def resampled(pool: Pool) -> Draw:
    return lambda noise, count: noise.integers(0, len(pool.vectors), count)


def with_duplicates(pool: Pool) -> Draw:
    """Some requests come often: their rank to the power of -0.8 says how often."""
    often = np.random.default_rng(0).permutation(np.arange(1, len(pool.vectors) + 1) ** -0.8)
    return lambda noise, count: noise.choice(len(often), count, p=often / often.sum())


def correlated(pool: Pool) -> Draw:
    """Sessions: a request, and then others that lie near it."""

    def drawn(noise: np.random.Generator, count: int) -> Rows:
        starts = noise.integers(0, len(pool.vectors), count // SESSION)
        return pool.nearest[np.repeat(starts, SESSION), noise.integers(0, SESSION, count)]

    return drawn


def p_values(pool: Pool, draw: Draw, windows: int, settings: Monitoring, references: int) -> list[float]:
    """Returns the p-values of windows of unchanged traffic; a reference serves `windows / references` of them."""
    found = []
    reference = Window(np.empty((0, 0), np.float32), {}, 0)
    for number in range(windows):
        noise = np.random.default_rng([2, number])
        if number % (windows // references) == 0:
            reference = pool.window(draw(noise, REFERENCE))
        window = pool.window(draw(noise, WINDOW))
        found.append(judge_window(reference, window, settings, since=float(number), until=number + 1.0).p)
    return found


def false_alarms(pool: Pool, windows: int) -> Iterator[Row]:
    """Yields how many windows of unchanged traffic are below the level, each with a reference of its own, and the
    alarms a month of the budget: with these, and where ten references serve all windows."""
    blocks = SETTINGS.model_copy(update={"block": SESSION})
    low, high = (edge / windows for edge in binom.interval(CONFIDENCE, windows, LEVEL))
    unchanged: dict[str, list[float]] = {}
    for name, draw, settings, goal in (
        ("resampled", resampled(pool), SETTINGS, LEVEL),
        ("with duplicates", with_duplicates(pool), SETTINGS, LEVEL),
        (f"correlated, blocks of {SESSION}", correlated(pool), blocks, LEVEL),
        ("correlated, moved one by one", correlated(pool), SETTINGS, None),
    ):
        unchanged[name] = p_values(pool, draw, windows, settings, windows)
        rate = float(np.mean(np.array(unchanged[name]) <= LEVEL))
        met = None if goal is None else bool(low <= rate <= high)
        yield Row(f"false alarms, {name}", 100 * rate, "% of windows", goal=goal and 100 * goal, met=met)
    yield budget("a reference for each", unchanged["resampled"])
    yield budget("ten references", p_values(pool, resampled(pool), windows, SETTINGS, 10))
    for peer in PEERS:
        raised = []
        for number in range(PEER_WINDOWS):
            noise = np.random.default_rng([3, number])
            sides = [pool.vectors[resampled(pool)(noise, count)] for count in (REFERENCE, WINDOW)]
            raised.append(evidently(peer, *sides))
        yield Row(f"  Evidently, {peer}, {PEER_WINDOWS} resampled", 100 * float(np.mean(raised)), "% of windows")


def budget(name: str, unchanged: Sequence[float]) -> Row:
    promised, a_month = SETTINGS.false_alarms_per_month, SETTINGS.windows_a_day * DAYS_A_MONTH
    months = len(unchanged) / a_month
    raised = sum(alarms(unchanged, threshold(promised, SETTINGS.windows_a_day), SETTINGS.kappa))
    met = bool(raised <= poisson.ppf(CONFIDENCE, promised * months))
    return Row(f"false alarms a month, {name}", raised / months, "alarms", goal=promised, met=met)


def power(
    pool: Pool, embedder: Embedder | StandIn, texts: Sequence[Item], images: Sequence[Item], trials: int
) -> Iterator[Row]:
    """Yields the smallest share of shifted requests that is found in 95 % of windows, by the kind of shift: by ours,
    and by each of Evidently's methods, some of which alarm without a shift as well."""
    for name, vectors, modality in shifts(pool, embedder, texts, images):
        yield smallest(name, pool, vectors, modality, trials, ours)
        for peer in PEERS:
            yield smallest(f"  Evidently, {peer}", pool, vectors, modality, trials, partial(theirs, peer))


def smallest(name: str, pool: Pool, vectors: Vectors, modality: str, trials: int, found: Test) -> Row:
    for share in SHARES:
        if rate_found(pool, vectors, modality, share, trials, found) >= FOUND:
            return Row(f"{name}: smallest share found", 100 * share, "% of requests")
    return Row(f"{name}: not found at", 100 * SHARES[-1], "% of requests")


def rate_found(pool: Pool, vectors: Vectors, modality: str, share: float, trials: int, found: Test) -> float:
    """Returns the share of windows that are found where `share` of the requests are drawn from the shifted ones."""
    raised: list[bool] = []
    for trial in range(trials):
        noise = np.random.default_rng([4, trial, int(1000 * share)])
        reference = pool.window(resampled(pool)(noise, SHIFTED_REFERENCE))
        window = pool.window(resampled(pool)(noise, SHIFTED_WINDOW))
        moved = noise.permutation(SHIFTED_WINDOW)[: round(share * SHIFTED_WINDOW)]
        window.vectors[moved] = vectors[noise.integers(0, len(vectors), len(moved))]
        window.columns["modality"][moved] = modality
        raised.append(found(reference, window))
        if len(raised) - sum(raised) > (1 - FOUND) * trials:
            break  # it cannot reach the rate any more
    return sum(raised) / trials


def ours(reference: Window, window: Window) -> bool:
    return judge_window(reference, window, SETTINGS, since=0.0, until=1.0).p <= LEVEL


def theirs(method: str, reference: Window, window: Window) -> bool:
    return evidently(method, reference.vectors, window.vectors)


def shifts(
    pool: Pool, embedder: Embedder | StandIn, texts: Sequence[Item], images: Sequence[Item]
) -> Iterator[tuple[str, Vectors, str]]:
    """Yields the shifts: their names, the vectors of shifted requests, and their modality."""
    emoji = [each for each in read_emoji() if not each.skin_tones]
    art = [drawn for each in emoji if (drawn := line_art_image(each, SIDE))]
    yield "line art", encoded(embedder, [Item(image=on_white(drawn)) for drawn in art]), "image"
    german = read_annotations("de")
    names = [name for each in emoji if (name := german.name(each))]
    yield "a new language", encoded(embedder, [Item(name) for name in names]), "text"
    originals = [item.image for item in images if isinstance(item.image, Image.Image)]
    blurred = [Item(image=original.filter(ImageFilter.GaussianBlur(3))) for original in originals]
    yield "blur", encoded(embedder, blurred), "image"
    yield (
        "a broken normaliser",
        encoded(embedder, [Item(image=original.point(_scaled)) for original in originals]),
        "image",
    )
    yield "a swapped tokenizer", encoded(embedder, [Item(text) for text in _swapped(texts)]), "text"
    of_texts = pool.vectors[pool.modalities == "text"]
    yield "a stale version", _turned(of_texts), "text"


def evidently(method: str, reference: Vectors, window: Vectors) -> bool:
    """Returns whether a method of Evidently, as it is by default, says that embeddings have drifted."""
    import pandas as pd
    from evidently.legacy.metrics.data_drift.embedding_drift_methods import distance, mmd, model, ratio

    methods: Mapping[str, Any] = {
        "mmd, bootstrap": lambda: mmd(bootstrap=True),
        "distance": distance,
        "model": model,
        "ratio": ratio,
    }
    return bool(methods[method]()(pd.DataFrame(window), pd.DataFrame(reference))[1])


def _scaled(value: int) -> int:
    return value // 2 + 64


def _swapped(texts: Sequence[Item]) -> list[str]:
    """Returns the texts with each word replaced by another one, always the same."""
    words = sorted({word for item in texts for word in str(item.text).split()})
    others = dict(zip(words, np.random.default_rng(0).permutation(words), strict=True))
    return [" ".join(str(others[word]) for word in str(item.text).split()) for item in texts]


def _turned(vectors: Vectors) -> Vectors:
    even, odd = vectors[:, ::2], vectors[:, 1::2]
    turned = np.empty_like(vectors)
    turned[:, ::2] = np.cos(ANGLE) * even - np.sin(ANGLE) * odd
    turned[:, 1::2] = np.sin(ANGLE) * even + np.cos(ANGLE) * odd
    return turned


if __name__ == "__main__":
    typer.run(main)
