"""Golden queries: right answers pass; a server that reads wrongly, or does not answer, is found."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item, ingest
from components.corpus.config import SOURCES
from components.embedder import Embedder, Vectors
from components.errors import DataInvalid, EmbedlineError, UsageError
from monitoring import golden
from monitoring.golden import Golden

DIMENSION, PAIRS = 16, 30


class Colours:
    """Embeds an image by its mean colour and a text by the colour that it names, so that answers can be right."""

    name, dimension = "colours", DIMENSION

    def __init__(self, channels: Sequence[int] = (0, 1, 2)) -> None:
        self.channels = list(channels)

    def encode(self, items: Sequence[Item]) -> Vectors:
        return np.stack([self.vector(item) for item in items])

    def vector(self, item: Item) -> Vectors:
        if item.text:
            colour = [int(word) for word in item.text.split()[1:]]
        else:
            source = io.BytesIO(item.image) if isinstance(item.image, bytes) else item.image
            with Image.open(source) as image:  # type: ignore[arg-type]
                colour = [int(value) for value in np.asarray(image).mean((0, 1))[self.channels]]
        seed = int.from_bytes(hashlib.sha256(str(colour).encode()).digest()[:8])
        vector = np.random.default_rng(seed).standard_normal(DIMENSION)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class Silent(Colours):
    def encode(self, items: Sequence[Item]) -> Vectors:
        raise EmbedlineError("no Triton answers")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (folder := tmp_path / "source").mkdir()
    for number in range(PAIRS):
        colour = (number * 8, 255 - number * 4, number * 3)
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("colour {} {} {}".format(*colour))
    settings = SOURCES.validate(
        {"source": "folder", "name": "colours", "location": str(folder), "eval_fraction": 0.5, "dev_fraction": 0.0}
    )
    ingest(settings, tmp_path / "data")  # type: ignore[arg-type]
    return tmp_path / "data"


@pytest.fixture
def known(data: Path, tmp_path: Path) -> Golden:
    golden.make(Colours(), data, tmp_path / "golden")
    return golden.read(tmp_path / "golden")


def test_they_are_kept_with_their_vectors(known: Golden) -> None:
    np.testing.assert_array_equal(Colours().encode(known.items), known.vectors)
    assert {bool(item.text) for item in known.items} == {True, False}
    for query, candidates, relevant in known.questions:
        assert set(relevant) <= set(candidates) and query not in candidates


def test_the_model_that_they_come_from_answers_them(known: Golden) -> None:
    report = golden.ask(Colours(), known, "1")
    assert (report.problem, report.hit_at_1, report.known_hit_at_1) == (None, 1.0, 1.0)
    assert report.least_cosine == pytest.approx(1, abs=1e-6)
    assert report.queries == len(known.questions)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: Colours(channels=(2, 1, 0)), "other vectors than stored"), (Silent, "no Triton answers")],
    ids=["channels swapped", "no answer"],
)
def test_what_is_wrong_is_found(known: Golden, make: Callable[[], Embedder], words: str) -> None:
    report = golden.ask(make(), known, "1")
    assert report.problem and words in report.problem
    assert report.hit_at_1 < report.known_hit_at_1 == 1.0


def test_reports_are_appended(known: Golden, tmp_path: Path) -> None:
    for _ in range(2):
        golden.append(tmp_path / "history" / "golden.jsonl", golden.ask(Colours(), known, "1"))
    assert len((tmp_path / "history" / "golden.jsonl").read_text().splitlines()) == 2


def test_without_evaluation_sets_and_with_damaged_files_it_says_so(tmp_path: Path, known: Golden) -> None:
    with pytest.raises(UsageError, match="holds no evaluation set"):
        golden.make(Colours(), tmp_path / "nothing", tmp_path / "other")
    (tmp_path / "golden" / golden.QUESTIONS).write_text("[")
    with pytest.raises(DataInvalid, match="holds no golden queries"):
        golden.read(tmp_path / "golden")
