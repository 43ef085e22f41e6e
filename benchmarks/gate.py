"""How often the gate passes a model that it should refuse or lets a better one through, and how often intervals hold,
beside the percentile bootstrap. All scores are simulated, so the truth is known.

    python benchmarks/gate.py            10,000 comparisons a row
    python benchmarks/gate.py --quick    2,000
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from components.registry import compare
from components.registry.config import Promotion
from components.scores import SCORER, Model, Scores, TaskScore
from components.scores.intervals import Values, difference_interval, mean_interval
from table import Row, show

MARGIN, CONFIDENCE = 0.01, 0.95
PROMOTION = Promotion(
    floors={}, margin=MARGIN, max_task_drop=1.0, confidence=CONFIDENCE, max_tie_rate=0.0, min_parity_cosine=0.0,
    max_latency_ms=1.0, max_size_bytes=1, sign_flips=2000,
)  # fmt: skip
SIZES = {
    "1 set of 30": (30,),
    "3 sets of 40": (40,) * 3,
    "8 sets of 20 to 1,000": (20, 30, 50, 100, 200, 300, 500, 1000),
    "26 sets of 100": (100,) * 26,
}
MANY = SIZES["26 sets of 100"]
DISCORDANCES = (0.02, 0.1, 0.3)
"""The share of queries on which the models differ."""
QUERIES = (30, 40, 100, 1000)
HIT_SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
RESAMPLES = 1000
CELLS = 2**23
"""As many simulated answers are held at once."""
PEER_SAMPLES = 300
GATES_CALLED = 40
Sets = Sequence[Values]
Draw = Callable[[int, np.random.Generator], list[Values]]
Interval = Callable[[Sets, float], tuple[Values, Values]]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer comparisons a row.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    samples = 2_000 if quick else 10_000
    rows = [*false_passes(samples), *power(samples), called(), *coverage(samples)]
    show("Gate", rows, machine, f"in brackets: the peer, the percentile bootstrap, on {PEER_SAMPLES} comparisons")


def false_passes(samples: int) -> Iterator[Row]:
    """Yields the share of passes at a true difference of exactly `-margin`; the last of each size has losses only."""
    level = 100 - 100 * CONFIDENCE
    for name, sizes in SIZES.items():
        for discordance in (*DISCORDANCES, MARGIN):
            label = "losses only" if discordance == MARGIN else f"{discordance:.0%} differ"
            ours, peer = passes(partial(differences, sizes, discordance, -MARGIN), samples)
            name_of_row = f"passes though worse: {name}, {label} (bootstrap)"
            yield Row(name_of_row, ours, "%", peer, goal=level, met=ours <= level)


def power(samples: int) -> Iterator[Row]:
    """Yields the share of passes of models that are the same, as good, and better by one point and by two."""
    same, peer = passes(partial(differences, MANY, 0.0, 0.0), 100)
    yield Row("passes, the same: 26 sets of 100 (bootstrap)", same, "%", peer, goal=100, met=same == 100)
    for discordance in DISCORDANCES:
        for better in (0.0, 0.01, 0.02):
            ours, peer = passes(partial(differences, MANY, discordance, better), samples)
            what = f"better by {100 * better:.0f} points" if better else "as good"
            yield Row(f"passes, {what}: 26 sets of 100, {discordance:.0%} differ (bootstrap)", ours, "%", peer)


def called() -> Row:
    """Returns how often the gate itself, given score files, decides as the bound that the other rows are of."""
    generator = np.random.default_rng(0)
    agreed, decisions = 0, set()
    for _ in range(GATES_CALLED):
        sets = [each[0] for each in differences(MANY, 0.1, 0.0, 1, generator)]
        verdict = compare(scores_of(sets, 1.0), scores_of(sets, -1.0), PROMOTION, task_names(sets))
        agreed += verdict.passed == bool(difference_interval(sets, 2 * CONFIDENCE - 1)[0] >= -MARGIN)
        decisions.add(verdict.passed)
    if len(decisions) < 2:
        raise SystemExit("the gate has decided the same each time, which proves nothing")
    share = 100 * agreed / GATES_CALLED
    return Row("  decided alike by the gate itself", share, "%", goal=100, met=agreed == GATES_CALLED)


def coverage(samples: int) -> Iterator[Row]:
    """Yields how often 95 % intervals hold the truth: the mean and the least over the cases of a size."""
    for queries in QUERIES:
        scores = [(share, partial(hits, queries, share)) for share in HIT_SHARES]
        yield from covered(f"score of {queries} queries", scores, mean_interval, samples)
    for queries in QUERIES:
        pairs = [
            (better, partial(differences, (queries,), discordance, better))
            for discordance in DISCORDANCES
            for better in (0.0, 0.01)
        ]
        yield from covered(f"difference over {queries} queries", pairs, difference_interval, samples)


def covered(name: str, cases: Sequence[tuple[float, Draw]], interval: Interval, samples: int) -> Iterator[Row]:
    ours, peer = (np.array([holds(each, *case, samples) for case in cases]) for each in (interval, bootstrap))
    mean, least = ours.mean(), ours.min()
    yield Row(f"{name}: in the interval (bootstrap)", mean, "%", peer.mean(), goal=93, met=bool(mean >= 93))
    yield Row("  least of its cases", least, "%", peer.min(), goal=90, met=bool(least >= 90))


def holds(interval: Interval, truth: float, draw: Draw, samples: int) -> float:
    """Returns how many percent of the samples have an interval that holds the truth."""
    lower, upper = limits(interval, draw, samples, CONFIDENCE)
    return 100 * float(((lower <= truth) & (truth <= upper)).mean())


def passes(draw: Draw, samples: int) -> tuple[float, float]:
    """Returns how many percent of the samples pass by our bound and by that of the bootstrap."""
    ours, peer = (limits(each, draw, samples, 2 * CONFIDENCE - 1)[0] for each in (difference_interval, bootstrap))
    return 100 * float((ours >= -MARGIN).mean()), 100 * float((peer >= -MARGIN).mean())


def limits(interval: Interval, draw: Draw, samples: int, confidence: float) -> Values:
    """Returns the limits `(2, samples)` of samples, the same each time, as many drawn at once as fit in memory.

    Of the bootstrap, which takes far longer, at most those of `PEER_SAMPLES`.
    """
    samples = min(samples, PEER_SAMPLES) if interval is bootstrap else samples
    generator = np.random.default_rng(0)
    block = max(1, CELLS // sum(each.shape[-1] for each in draw(1, np.random.default_rng(0))))
    sizes = (min(block, samples - start) for start in range(0, samples, block))
    return np.concatenate([interval(draw(size, generator), confidence) for size in sizes], axis=1)


def hits(queries: int, share: float, samples: int, generator: np.random.Generator) -> list[Values]:
    """Returns one set's hits and misses `(samples, queries)`."""
    return [(generator.random((samples, queries)) < share).astype(float)]


def differences(
    sizes: Sequence[int], discordance: float, better: float, samples: int, generator: np.random.Generator
) -> list[Values]:
    """Returns what one model has more than the other `(samples, queries)` by set: 1, 0 or -1, `better` on average."""
    won, lost = (discordance + better) / 2, (discordance - better) / 2
    luck = [generator.random((samples, size)) for size in sizes]
    return [(each < won).astype(float) - (each >= 1 - lost) for each in luck]


def bootstrap(sets: Sets, confidence: float) -> tuple[Values, Values]:
    """Returns the percentile bootstrap interval of each sample. Samples with equal counts have the same one."""
    kinds = (-1.0, 0.0, 1.0)
    counts = np.stack([np.stack([(each == kind).sum(-1) for kind in kinds], -1) for each in sets], 1)
    different, same_as = np.unique(counts, axis=0, return_inverse=True)
    generator = np.random.default_rng(1)
    found = np.array([resampled(each, kinds, confidence, generator) for each in different])[same_as.ravel()]
    return found[:, 0], found[:, 1]


def resampled(
    counts: NDArray[np.int64], kinds: Sequence[float], confidence: float, generator: np.random.Generator
) -> Values:
    """Returns the two limits of the bootstrap of sets with so many values of each kind `(sets, kinds)`."""
    means = [generator.multinomial(each.sum(), each / each.sum(), RESAMPLES) @ kinds / each.sum() for each in counts]
    return np.asarray(np.quantile(np.mean(means, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2]))


def task_names(sets: Sets) -> list[str]:
    return [str(index) for index in range(len(sets))]


def scores_of(sets: Sets, sign: float) -> Scores:
    """Returns the scores of a model that has a hit where the differences have this sign."""
    tasks = {}
    for name, each in zip(task_names(sets), sets, strict=True):
        found = each * sign > 0
        tasks[name] = TaskScore(
            "image", "retrieval", None, "hit@1", float(found.mean()), (0.0, 1.0), len(found), 10, 0.0,
            found.astype(float).tolist(), {},
        )  # fmt: skip
    means = dict.fromkeys(("overall", "retrieval"), float(np.mean([task.score for task in tasks.values()])))
    model = Model("simulated", f"{sign:+.0f}", 1, None)
    return Scores(model, "simulated", "data", SCORER, "prompts", tasks, [], [], means, {})


if __name__ == "__main__":
    typer.run(main)
