"""How long it takes to judge a window, beside a report of Evidently, and what recording and reading traffic cost.

python benchmarks/drift.py            2,500 requests of 512 numbers, 200 permutations, 100,000 requests read: 2 minutes
python benchmarks/drift.py --quick    500 requests, and 10,000 read; no report of Evidently: half a minute
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from components.quiet import configure

configure()

# isort: split
import numpy as np
import typer

from components.monitoring.config import TESTS, Monitoring
from components.traffic import Request, TrafficWriter, Window, read_window
from monitoring.permutations import Inapplicable, Samples, pooled
from monitoring.report import judge_window
from table import Row, show

DIMENSION, REFERENCE, PERMUTATIONS, SEED = 512, 2000, 200, 0
SECONDS, MEGABYTES, MICROSECONDS = 2.0, 100.0, 50.0
"""The goals: of judging a window, of reading one, and of recording a request: 2 % of the 2.5 ms that one takes."""
REPEATS = 3


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A small window, without Evidently.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    requests, read = (500, 10_000) if quick else (2500, 100_000)
    rows = [*judged(requests, peer=not quick), *recorded(read)]
    show("Drift", rows, machine, "in brackets: the peer; medians of three runs")


def traffic(count: int, seed: int) -> Window:
    """Returns requests of forty topics, all columns recorded."""
    noise = np.random.default_rng(seed)
    topics = np.random.default_rng(SEED).standard_normal((40, DIMENSION))
    vectors = noise.standard_normal((count, DIMENSION)) + topics[noise.integers(0, 40, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = noise.random(count) < 0.5
    columns = {
        "request_id": np.arange(count).astype(str),
        "modality": np.where(texts, "text", "image"),
        "language": np.where(texts, noise.choice(["en", "de"], count), ""),
        "norm": noise.normal(5, 1, count),
        "top_score": noise.beta(5, 2, count),
        "text_length": np.where(texts, noise.integers(3, 200, count), np.nan),
    }
    return Window(vectors.astype(np.float32), columns, count)


def judged(requests: int, peer: bool) -> Iterator[Row]:
    reference, window, training = traffic(REFERENCE, 1), traffic(requests, 2), traffic(REFERENCE, 3).vectors
    settings = Monitoring(permutations=PERMUTATIONS, slices=[])
    name = f"{requests} x {DIMENSION}, {PERMUTATIONS} permutations, all tests"
    ours = timed(lambda: judge_window(reference, window, settings, since=0.0, until=1.0, training=training))
    theirs = evidently_report(reference, window) if peer else None
    ratio = None if theirs is None else ours / theirs
    name = f"{name} (Evidently's report)" if peer else name
    yield Row(name, ours, "s", theirs, ratio, SECONDS, ours <= SECONDS)
    began = time.process_time()
    judge_window(reference, window, settings, since=0.0, until=1.0, training=training)
    yield Row("  of which both cores together computed", time.process_time() - began, "s")
    samples = pooled(reference, window, PERMUTATIONS, SEED, training=training)
    for test in settings.chosen():
        module = TESTS.of(test)
        try:
            module.measure(test, samples)
        except Inapplicable as reason:
            typer.echo(f"{test.name} is not measured: {reason}", err=True)
            continue
        fresh = [pooled(reference, window, PERMUTATIONS, SEED, training=training) for _ in range(REPEATS)]
        yield Row(f"  {test.name}", timed(partial(_measured, module, test, fresh)), "s")
    by_slice = settings.model_copy(update={"slices": ["modality", "language"]})
    yield Row("  with its slices", timed(lambda: judge_window(reference, window, by_slice, since=0.0, until=1.0)), "s")


def recorded(count: int) -> Iterator[Row]:
    """Yields what one request costs to record, the writer's own thread included, and what a window costs to read."""
    vector = np.ones(DIMENSION, np.float32) / np.sqrt(DIMENSION)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        with TrafficWriter(Path(folder), queued=count) as writer:
            for number in range(count):
                writer.record(Request(float(number), str(number), vector, "text", "1", latency_ms=3.0))
        cost = (time.process_time() - began) / count * 1e6
        assert writer.counts().rows == count, writer.counts()
        name = "recording a request, the writer's thread included"
        yield Row(name, cost, "microseconds of a core", goal=MICROSECONDS, met=cost <= MICROSECONDS)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = timed(lambda: read_window(Path(folder), most=Monitoring().most))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1e3
        yield Row(f"reading a window of {count:,} requests", seconds, "s")
        yield Row("  by how much memory grew", grown, "MB", goal=MEGABYTES, met=grown <= MEGABYTES)


def evidently_report(reference: Window, window: Window) -> float:
    """Returns the seconds of Evidently's report on drift of embeddings, as it is by default."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics.embeddings import EmbeddingsDrift

    names = [f"e{number}" for number in range(DIMENSION)]
    definition = DataDefinition(embeddings={"vectors": names})
    sides: list[Any] = [
        Dataset.from_pandas(pd.DataFrame(side.vectors, columns=names), data_definition=definition)
        for side in (window, reference)
    ]
    began = time.perf_counter()
    Report([EmbeddingsDrift(embeddings_name="vectors")]).run(*sides)
    return time.perf_counter() - began


def _measured(module: Any, test: Any, samples: list[Samples]) -> None:
    """Measures samples of its own, for which nothing was computed before."""
    module.measure(test, samples.pop())


def timed(work: Callable[[], object]) -> float:
    """Returns the median of the seconds of a few runs."""
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    typer.run(main)
