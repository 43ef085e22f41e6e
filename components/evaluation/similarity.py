"""Semantic textual similarity (STS): how the cosine of two sentences agrees with what people said, from -1 to 1.

No image is involved: the difference between a model before and after fine-tuning on images shows whether it unlearned
text. Spearman's correlation is the main number, for it does not depend on the scale of the cosines.

Sources: Cer et al. 2017, SemEval-2017 Task 1 (STS-B); Reimers et al. 2016, Task-Oriented Intrinsic Evaluation of
Semantic Textual Similarity (why Spearman).
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, pearsonr, rankdata

from components.corpus import Item
from components.embedder import Embedder, Vectors
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.evaluation.aggregate import CONFIDENCE
from components.evaluation.loaders.tables import rows
from components.evaluation.scoring import STEPS, normalised

COLUMNS = ("sentence1", "sentence2", "score")
STS_B = ("genre", "file", "year", "number", "score", "sentence1", "sentence2")
"""The columns of STS-B's own files, which do not name them; sources of the sentences may follow."""
BOOTSTRAP_SAMPLES = 1000
CELLS_AT_ONCE = 2**22
REMEDY = "Correct the row, or leave it out."
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class RatedPair:
    """Two sentences with the score that people gave their similarity; `place` says where they come from, in words."""

    first: str
    second: str
    score: float
    place: str


@dataclass(frozen=True)
class Similarity:
    """Spearman's correlation with its 95 % bootstrap interval over the pairs, and Pearson's.

    `gold` and `cosines` hold the two numbers of each pair.
    """

    spearman: float
    pearson: float
    pairs: int
    interval: tuple[float, float]
    gold: tuple[float, ...]
    cosines: tuple[float, ...]


def regression(embedder: Embedder, name: str, file: Path, batch_size: int) -> Similarity:
    """Returns how the embedder, which messages call `name`, agrees with the scores in a file as `rated_pairs` reads it.

    Each different sentence is encoded once, without an instruction. Raises `EmbedlineError` naming model and row if a
    vector is zero or not finite, or if all pairs have the same cosine: then nothing correlates. Raises as `rated_pairs`
    does, and `DataInvalid` if the file is too small for an interval.
    """
    pairs = rated_pairs(file)
    gold = np.array([pair.score for pair in pairs])
    if np.ptp(gold) == 0:
        raise DataInvalid(f"{file}: all {len(pairs)} pairs have the same score", "Nothing can correlate with it.")
    cosines = _cosines(embedder, name, pairs, batch_size)
    if np.ptp(cosines) == 0:
        raise EmbedlineError(
            f"{name}: {pairs[0].place} and all other pairs have the cosine {cosines[0]:.6f}",
            "No correlation is given. The model tells no pair from another; look at its weights.",
        )
    return Similarity(
        float(_spearman(gold, cosines)), float(pearsonr(gold, cosines).statistic), len(pairs),
        _interval(_spearman, gold, cosines), tuple(gold.tolist()), tuple(cosines.tolist()),
    )  # fmt: skip


def rated_pairs(file: Path) -> list[RatedPair]:
    """Returns the pairs of a CSV, TSV, JSONL or Parquet file with the columns `sentence1`, `sentence2` and `score`.

    Other columns are ignored. A text file with tabs in its first line is tab-separated and has no quoting, whatever its
    name ends in; if it names no columns it is one of STS-B's own. Raises `UsageError` if there is no such file or its
    kind is unknown, `DataInvalid` naming the row if a text is missing or a score is no number.
    """
    pairs = [
        RatedPair(_text(place, row, "sentence1"), _text(place, row, "sentence2"), _score(place, row), place)
        for place, row in _rows(file)
    ]
    if not pairs:
        raise DataInvalid(f"{file}: holds no pairs", "Name another file.")
    return pairs


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the place of each row in words, and its columns."""
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file", "Name a file of sentence pairs with scores.")
    if file.suffix in (".jsonl", ".parquet"):
        yield from rows([file], COLUMNS)
    elif file.suffix in (".csv", ".tsv"):
        yield from _text_rows(file)
    else:
        raise UsageError(f"{file}: sentence pairs end in .csv, .tsv, .jsonl or .parquet", "Convert the file.")


def _text_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        tabs = "\t" in text.partition("\n")[0]
        if tabs:
            table = [line.removesuffix("\r").split("\t") for line in text.removesuffix("\n").split("\n")]
        else:
            table = [*csv.reader(io.StringIO(text, ""), strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file} cannot be read: {error}", "It should be CSV or TSV in UTF-8.") from error
    if tabs and len(table[0]) >= len(STS_B) and not set(COLUMNS) & set(table[0]):
        table = [[*STS_B], *(cells[: len(STS_B)] for cells in table)]
    names = table[0] if table else []
    if missing := [column for column in COLUMNS if column not in names]:
        present = ", ".join(names) or "none"
        raise DataInvalid(f"{file}: there is no column {missing[0]!r}; it has {present}", "Rename its columns.")
    for number, cells in enumerate(table[1:]):
        place = f"{file}: row {number}"
        if len(cells) != len(names):
            raise DataInvalid(f"{place}: {len(cells)} columns instead of {len(names)}", REMEDY)
        yield place, dict(zip(names, cells, strict=True))


def _text(place: str, row: Mapping[str, Any], column: str) -> str:
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise DataInvalid(f"{place}: {column} has no text", REMEDY)
    return text


def _score(place: str, row: Mapping[str, Any]) -> float:
    try:
        score = float(row["score"])
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DataInvalid(f"{place}: the score {row['score']!r} is no number", REMEDY)
    return score


def _cosines(embedder: Embedder, name: str, pairs: Sequence[RatedPair], batch_size: int) -> Numbers:
    """Returns the cosine of each pair, `(n,)`, rounded as scores are, so that equal sentences have exactly 1."""
    places: dict[str, str] = {}
    for pair in pairs:
        for sentence in (pair.first, pair.second):
            places.setdefault(sentence, pair.place)
    sentences = sorted(places, key=len)
    vectors = normalised(
        _encoded(embedder, name, sentences, batch_size),
        lambda row: f"{name}: {places[sentences[row]]}: {sentences[row]!r}",
    )
    row = {sentence: number for number, sentence in enumerate(sentences)}
    first = vectors[[row[pair.first] for pair in pairs]]
    second = vectors[[row[pair.second] for pair in pairs]]
    cosines = _dots(first, second) / np.sqrt(_dots(first, first) * _dots(second, second))
    return np.asarray(np.rint(cosines * STEPS) / STEPS)


def _encoded(embedder: Embedder, name: str, sentences: Sequence[str], batch_size: int) -> Vectors:
    vectors = np.empty((len(sentences), embedder.dimension), np.float32)
    for start in range(0, len(sentences), batch_size):
        batch = sentences[start : start + batch_size]
        answer = np.asarray(embedder.encode([Item(sentence) for sentence in batch]))
        if answer.shape != (expected := (len(batch), embedder.dimension)):
            raise EmbedlineError(
                f"{name}: {len(batch)} sentences gave vectors of shape {answer.shape}, not {expected}",
                "No correlation is given. The embedder must return one vector an item.",
            )
        vectors[start : start + batch_size] = answer
    return vectors


def _dots(first: Vectors, second: Vectors) -> Numbers:
    return np.asarray(np.einsum("ij,ij->i", first, second, dtype=np.float64))


def _spearman(gold: Numbers, cosines: Numbers, axis: int = -1) -> Numbers:
    return np.asarray(pearsonr(rankdata(gold, axis=axis), rankdata(cosines, axis=axis), axis=axis).statistic)


def _interval(statistic: Callable[..., Numbers], *columns: Numbers) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a statistic over rows of all columns together."""
    with warnings.catch_warnings(action="ignore"):  # of a draw in which nothing varies; it makes the interval NaN
        low, high = bootstrap(
            columns, statistic, paired=True, vectorized=True, method="percentile", confidence_level=CONFIDENCE,
            n_resamples=BOOTSTRAP_SAMPLES, batch=max(1, CELLS_AT_ONCE // len(columns[0])), rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    if not math.isfinite(low + high):
        raise DataInvalid(
            f"{len(columns[0])} pairs are too few, or their scores too much alike, for an interval", "Add pairs."
        )
    return float(low), float(high)
