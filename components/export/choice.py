"""The choice of a variant by measurement: the fastest here of those whose dev score is nearly that of fp32.

The test split has no part in it: what is chosen by a score is no longer judged by it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder
from components.errors import UsageError
from components.export.config import AUTO, Serving
from components.export.parity import rank_agreement
from components.export.sample import choose as sample
from components.export.sample import modality
from components.files import folder_bytes, write_text
from components.scores import Scores, compare

CHOICE, PARITY = "choice.json", "parity.json"
REFERENCE = "fp32"
CONFIDENCE = 0.95
RUNS = 5
TIMED, RANKED = {"text": 256, "image": 64}, 500
Score = Callable[[Embedder], Scores]
"""Returns the scores of an embedder on the dev split."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a variant on this machine.

    Items a second are medians of `RUNS` runs, decoding of images included. `rank_agreement_1` and `_10` are those of
    `rank_agreement` with fp32. `loss` is what the dev score lacks to that of fp32, `loss_limit` the upper limit of its
    95 % interval, paired over the queries.
    """

    provider: str
    size_bytes: int
    texts_per_second: float
    images_per_second: float
    parity_minimum: float
    rank_agreement_1: float
    rank_agreement_10: float
    dev_score: float
    dev_interval: tuple[float, float]
    loss: float
    loss_limit: float

    @property
    def items_per_second(self) -> float:
        """How many items a second, of which every other one is an image."""
        return 2 / (1 / self.texts_per_second + 1 / self.images_per_second)


@dataclass(frozen=True)
class Row:
    """A variant, what was measured of it (None where this machine does not compute it), and why it is chosen or not."""

    variant: str
    measured: Measured | None
    chosen: bool
    why: str


def served_variant(serving: Serving, onnx: Path) -> str:
    """Returns the variant that is served: the one that `serving` names, or for `auto` the one chosen in `onnx`.

    Raises `UsageError` if none was chosen there.
    """
    if serving.variant != AUTO:
        return serving.variant
    return next(row.variant for row in report(onnx) if row.chosen)


def report(onnx: Path) -> list[Row]:
    """Returns the table of the choice in an exported directory. Raises `UsageError` if there is none."""
    path = onnx / CHOICE
    remedy = "Set export.max_score_loss in params.yaml and export again: embedline stage export"
    try:
        rows = TypeAdapter(list[Row]).validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: missing; the variants were not measured", remedy) from error
    except ValidationError as error:
        raise UsageError(f"{path}: is no table of variants of this version", remedy) from error
    if sum(row.chosen for row in rows) != 1:
        raise UsageError(f"{path}: chooses not exactly one variant", remedy)
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown, for the model card and the command line."""
    head = ("variant", "by", "MB", "texts/s", "images/s", "least cosine", "same at 1", "at 10", "dev score", "")
    lines = [head, ("---", "---", *["---:"] * 7, "---"), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_choice(
    onnx: Path, variants: Sequence[str], items: Sequence[Item], score: Score, max_loss: float
) -> list[Row]:
    """Writes `choice.json` to an exported directory of these variants, fp32 among them, and returns its rows.

    `items` are timed and ranked, `score` gives dev scores, of which `max_loss` may be lost.
    """
    rows = choose(variants, measure(onnx, items, score), max_loss)
    write_text(onnx / CHOICE, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return rows


def choose(variants: Sequence[str], measured: Mapping[str, Measured], max_loss: float) -> list[Row]:
    """Returns a row for each variant; the fastest is chosen whose loss with its interval is at most `max_loss`.

    fp32, which loses nothing, is always a candidate.
    """
    fit = {name: found for name, found in measured.items() if name == REFERENCE or found.loss_limit <= max_loss}
    best = max(fit, key=lambda name: fit[name].items_per_second)
    rows = []
    for name in variants:
        found = measured.get(name)
        if found is None:
            why = "not computed on this machine"
        elif name == best:
            why = "the fastest that loses no more than it may"
        elif name not in fit:
            why = f"may lose {100 * found.loss_limit:.1f} points, more than {100 * max_loss:.1f}"
        else:
            why = f"slower: {found.items_per_second:.0f} items/s, {best} {fit[best].items_per_second:.0f}"
        rows.append(Row(name, found, name == best, why))
    return rows


def measure(onnx: Path, items: Sequence[Item], score: Score) -> dict[str, Measured]:
    """Returns what is measured of each variant in an exported directory, by its name."""
    parities = json.loads((onnx / PARITY).read_text(encoding="utf-8"))
    embedders = {name: OnnxEmbedder(onnx / name) for name in parities}
    speed = {
        kind: speeds(embedders, sample([item for item in items if modality(item) == kind], most))
        for kind, most in TIMED.items()
    }
    ranked = sample(items, RANKED)
    scores = {name: score(embedder) for name, embedder in embedders.items()}
    vectors = {name: embedder.encode(ranked) for name, embedder in embedders.items()}
    found = {}
    for name, embedder in embedders.items():
        ours, theirs = scores[name], scores[REFERENCE]
        difference = compare(ours, theirs, 40 * len(ours.tasks), CONFIDENCE).overall
        same = name == REFERENCE
        found[name] = Measured(
            provider=embedder.provider,
            size_bytes=folder_bytes(onnx / name),
            texts_per_second=speed["text"][name],
            images_per_second=speed["image"][name],
            parity_minimum=parities[name]["minimum"],
            rank_agreement_1=rank_agreement(vectors[REFERENCE], vectors[name], 1),
            rank_agreement_10=rank_agreement(vectors[REFERENCE], vectors[name], 10),
            dev_score=difference.ours,
            dev_interval=ours.confidence.get("overall", (0.0, 1.0)),
            loss=-difference.difference,
            loss_limit=0.0 if same else -difference.lower,
        )
    return found


def speeds(embedders: Mapping[str, Embedder], items: Sequence[Item]) -> dict[str, float]:
    """Returns how many items a second each encodes: the median of `RUNS` runs by turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in embedders}
    for _ in range(RUNS + 1):
        for name, embedder in embedders.items():
            began = time.perf_counter()
            embedder.encode(items)
            seconds[name].append(time.perf_counter() - began)
    return {name: len(items) / statistics.median(found[1:]) for name, found in seconds.items()}


def _cells(row: Row) -> tuple[str, ...]:
    name = f"**{row.variant}**" if row.chosen else row.variant
    if (found := row.measured) is None:
        return (name, *["-"] * 8, row.why)
    low, high = (100 * limit for limit in found.dev_interval)
    return (
        name,
        found.provider,
        f"{found.size_bytes / 1e6:.1f}",
        f"{found.texts_per_second:,.0f}",
        f"{found.images_per_second:,.0f}",
        f"{found.parity_minimum:.4f}",
        f"{100 * found.rank_agreement_1:.1f} %",
        f"{100 * found.rank_agreement_10:.1f} %",
        f"{100 * found.dev_score:.1f} ({low:.1f} to {high:.1f})",
        row.why,
    )
