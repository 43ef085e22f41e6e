"""A day in small: mixed traffic at half of the load that gateway and Triton can carry, and what happens to memory.

Eight clients ask for texts, images of 640 x 480 pixels and both, one item a request, through the gateway. First as fast
as they are answered; then half as often, for as long as asked. Memory is that of the gateway and of Triton with its
model process; it may grow by `MEMORY_GOAL_MB` between the end of the first tenth and the end.

    python benchmarks/soak.py            ten minutes
    python benchmarks/soak.py --quick    one minute
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Annotated

from components.quiet import configure

configure()

# isort: split
import numpy as np
import psutil
import typer

from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.embedder.dual_encoder import save
from components.export.exporters import exporter_of
from export import OPSET, small, text_items
from gateway_process import asking_gateway, gateway
from serving_speed import image_items, load, served
from table import Row, show

CLIENTS, SHARE, TENTHS = 8, 0.5, 10
FASTEST_SECONDS = 5.0
MEMORY_GOAL_MB = 20.0


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One minute.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(small(), Path(folder, "model"))
        exporter_of(Path(folder, "model")).export(Path(folder, "model"), Path(folder, "graphs"), OPSET)
        dimension = OnnxEmbedder(Path(folder, "graphs")).dimension
        with served(Path(folder), dimension) as server, gateway(Path(folder), server.grpc_port) as (port, process):
            rows = [*lasting(asking_gateway(port), [process, psutil.Process(server.pid)], 60.0 if quick else 600.0)]
    show("Mixed traffic at half load", rows, machine, caption="")


def lasting(
    ask: Callable[[Sequence[Item]], np.ndarray], processes: Sequence[psutil.Process], seconds: float
) -> Iterator[Row]:
    requests = mixed()
    fastest = load(ask, requests, CLIENTS, FASTEST_SECONDS).requests_per_second
    milliseconds, failures, grown = list[float](), 0, list[float]()
    for _ in range(TENTHS):
        took, failed = paced(ask, requests, SHARE * fastest, seconds / TENTHS)
        milliseconds += took
        failures += failed
        grown.append(memory(processes))
    growth = grown[-1] - grown[0]
    yield Row("as fast as answered", fastest, "a second")
    yield Row("requests at half of it", len(milliseconds), "requests")
    yield Row("  failed", failures, "requests", goal=0, met=failures == 0)
    for share in (50, 95, 99):
        yield Row(f"  p{share}", float(np.percentile(milliseconds, share)), "ms")
    yield Row("memory after the first tenth", grown[0], "MB")
    yield Row("memory at the end", grown[-1], "MB")
    yield Row("  growth", growth, "MB", goal=MEMORY_GOAL_MB, met=growth <= MEMORY_GOAL_MB)


def mixed() -> list[list[Item]]:
    texts, images = text_items(60), image_items(20)
    both = [Item(text.text, image.image) for text, image in zip(texts, cycle(images), strict=False)]
    return [[item] for item in chain(*zip(texts, islice(cycle(images), len(texts)), both, strict=True))]


def paced(
    ask: Callable[[Sequence[Item]], np.ndarray], requests: Sequence[Sequence[Item]], rate: float, seconds: float
) -> tuple[list[float], int]:
    """Asks so many times a second in all; returns the milliseconds of the answers, and how many requests failed."""

    def client(number: int) -> tuple[list[float], int]:
        milliseconds, failed, began = list[float](), 0, time.perf_counter()
        for count, request in enumerate(islice(cycle(requests), number, None)):
            due = began + (count * CLIENTS + number) / rate
            if due - began > seconds:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = time.perf_counter()
            try:
                ask(request)
            except (RuntimeError, OSError):
                failed += 1
            milliseconds.append((time.perf_counter() - asked) * 1000)
        return milliseconds, failed

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(client, range(CLIENTS)))
    return [each for many, _ in found for each in many], sum(failed for _, failed in found)


def memory(processes: Sequence[psutil.Process]) -> float:
    """Returns the resident memory of the processes and of all that they have started, in MB."""
    everyone = [one for process in processes for one in (process, *process.children(recursive=True))]
    return sum(one.memory_info().rss for one in everyone) / 1e6


if __name__ == "__main__":
    typer.run(main)
