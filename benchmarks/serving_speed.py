"""What a served model answers, from raw bytes to the vector, beside the same runtime in process.

Models with random weights: the student's architecture, and a dual encoder of the size of ViT-B/32. Clients are threads
of this process, each with a gRPC connection of its own; each peer is measured by turns with Triton. A model that does
nothing shows what the way through Triton's python backend costs at least. The gateway, which answers in base64, is
measured by turns with Triton asked directly.

    python benchmarks/serving_speed.py            both models, five concurrencies
    python benchmarks/serving_speed.py --quick    the student's architecture, three concurrencies, shorter
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from threading import Barrier, local
from typing import Annotated

from components.quiet import configure

configure()

# isort: split
import numpy as np
import typer
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput

from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.embedder.dual_encoder import save
from components.export.bundle import MODEL, TRITON_CONFIG, triton_config, write_version
from components.export.capacity import choose_capacity
from components.export.config import Serving
from components.export.exporters import exporter_of
from export import OPSET, small, text_items, vit_b_32
from gateway_process import asking_gateway, gateway
from serving import TritonServer
from serving.client import as_row, connect
from serving.client.triton import INPUTS
from serving.client.triton import Row as Sent
from table import Row, show

THREADS = 2
SETTINGS = Serving(
    variant="fp32", http_port=0, grpc_port=0, metrics_port=0, threads=None, max_batch_size=64, startup_seconds=120
)
BATCH = 64
AT_LEAST, FROM = 0.9, 8
"""The share of the in-process throughput that is to be reached, from this concurrency on."""
OF_TRITON = 0.85
"""The share of Triton's own throughput that is to be reached through the gateway, from `FROM` on."""
OF_NOTHING = 0.8
"""The share that texts of the student are to reach of a model that does nothing: the way there costs more than they."""
NOTHING = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()) for request in requests]

    def answer(self, texts):
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", vectors)])
"""
Ask = Callable[[Sequence[Item]], object]


@dataclass(frozen=True)
class Load:
    """What one measurement saw; milliseconds are of single requests."""

    requests_per_second: float
    milliseconds: Sequence[float]

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="The small model, fewer concurrencies, shorter.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    models = {"student": small} if quick else {"student": small, "ViT-B/32": vit_b_32}
    rows: list[Row] = []
    for name, build in models.items():
        with tempfile.TemporaryDirectory() as folder:
            save(build(), Path(folder, "model"))
            exporter_of(Path(folder, "model")).export(Path(folder, "model"), Path(folder, "graphs"), OPSET)
            rows += measured(name, Path(folder), (1, 8, 32) if quick else (1, 4, 8, 16, 32), 0.7 if quick else 3.0)
    show("Serving", rows, machine, "in brackets: the peer; a request is one item unless it says otherwise")


def measured(name: str, folder: Path, concurrencies: Sequence[int], seconds: float) -> Iterator[Row]:
    embedder = OnnxEmbedder(folder / "graphs", threads=THREADS)
    items = {"text": text_items(200), "image": image_items(50)}
    items["both"] = [Item(a.text, b.image) for a, b in zip(items["text"], cycle(items["image"]), strict=False)]
    with served(folder, embedder.dimension) as server:
        triton, nothing = asking(server, MODEL), asking(server, "nothing")
        demand_equal(triton, embedder, items["both"])
        for kind, concurrency in [(kind, each) for kind in items for each in concurrencies]:
            peers = {"in process": embedder.encode} | ({"nothing": nothing} if kind == "text" else {})
            found = by_turns({"Triton": triton, **peers}, one_by_one(items[kind]), concurrency, seconds)
            ours = found["Triton"].requests_per_second
            for peer in peers:
                theirs, goal = found[peer].requests_per_second, goal_of(name, kind, peer, concurrency)
                what = f"{name}, {kind}, {concurrency} at once ({peer})"
                yield Row(what, ours, "a second", theirs, ours / theirs, goal, ours >= goal * theirs if goal else None)
            for share in (50, 95, 99):
                yield Row(f"  p{share}", found["Triton"].percentile(share), "ms", found["in process"].percentile(share))
        with gateway(folder, server.grpc_port) as (port, _):
            through = asking_gateway(port)
            demand_equal(through, embedder, items["both"])
            for kind, concurrency in [(kind, each) for kind in items for each in concurrencies]:
                found = by_turns({"gateway": through, "Triton": triton}, one_by_one(items[kind]), concurrency, seconds)
                yield from of_gateway(f"{name} by the gateway, {kind}, {concurrency} at once", found, concurrency)
        batches = [list(islice(cycle(items["text"]), start, start + BATCH)) for start in range(0, 200, 25)]
        both = by_turns({"Triton": triton, "in process": embedder.encode}, batches, FROM, seconds)
        ours, theirs = (BATCH * both[each].requests_per_second for each in ("Triton", "in process"))
        what = f"{name}, {BATCH} texts a request, {FROM} at once (in process)"
        yield Row(what, ours, "items/s", theirs, ours / theirs, AT_LEAST, ours >= AT_LEAST * theirs)


def of_gateway(what: str, found: dict[str, Load], concurrency: int) -> Iterator[Row]:
    ours, theirs = (found[each].requests_per_second for each in ("gateway", "Triton"))
    goal = OF_TRITON if concurrency >= FROM else None
    met = ours >= goal * theirs if goal else None
    yield Row(f"{what} (Triton)", ours, "a second", theirs, ours / theirs, goal, met)
    for share in (50, 95, 99):
        yield Row(f"  p{share}", found["gateway"].percentile(share), "ms", found["Triton"].percentile(share))


def goal_of(name: str, kind: str, peer: str, concurrency: int) -> float | None:
    if concurrency < FROM:
        return None
    by_hop = (name, kind) == ("student", "text")
    if peer == "nothing":
        return OF_NOTHING if by_hop else None
    return None if by_hop else AT_LEAST


@contextmanager
def served(folder: Path, dimension: int) -> Iterator[TritonServer]:
    """Yields a server with the model as `embedder`, and one of the same configuration as `nothing`; how many instances
    there are, of how many threads, is measured as `embedline run` does it."""
    capacity, _ = choose_capacity(SETTINGS, folder / "graphs", [*text_items(16), *image_items(16)])
    repository = folder / "model_repository"
    for model in (MODEL, "nothing"):
        (repository / model).mkdir(parents=True)
        config = triton_config(SETTINGS, capacity).replace(f'name: "{MODEL}"', f'name: "{model}"')
        (repository / model / TRITON_CONFIG).write_text(config, encoding="utf-8")
    write_version(folder / "graphs", repository / MODEL / "1")
    (repository / "nothing" / "1").mkdir()
    source = NOTHING.replace("DIMENSION", str(dimension))
    (repository / "nothing" / "1" / "model.py").write_text(source, encoding="utf-8")
    with TritonServer.start(folder, 0, 0, 0, SETTINGS.startup_seconds) as server:
        with connect(server.url, SETTINGS.startup_seconds) as client:
            for model in (MODEL, "nothing"):
                client.load_model(model, headers=server.admin_headers)
        yield server


def asking(server: TritonServer, model: str) -> Ask:
    """Returns what asks the model over gRPC, by a connection for each thread."""
    connections = local()

    def ask(items: Sequence[Item]) -> np.ndarray:
        if not hasattr(connections, "client"):
            connections.client = InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        rows: list[Sent] = [as_row(position, item) for position, item in enumerate(items)]
        inputs = []
        for name, column in zip(INPUTS, zip(*rows, strict=True), strict=True):
            inputs.append(InferInput(name, [len(rows), 1], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array(column, object).reshape(-1, 1))
        vectors: np.ndarray = connections.client.infer(model, inputs).as_numpy("EMBEDDING")
        return vectors

    return ask


def demand_equal(ask: Ask, embedder: OnnxEmbedder, items: Sequence[Item]) -> None:
    """Raises `AssertionError` if the server answers other vectors: then nothing is worth being timed."""
    np.testing.assert_allclose(np.asarray(ask(items[:20])), embedder.encode(items[:20]), atol=1e-4)


def by_turns(
    sides: dict[str, Ask], requests: Sequence[Sequence[Item]], concurrency: int, seconds: float
) -> dict[str, Load]:
    """Returns the median load of three turns for each side, with the milliseconds of all of them."""
    turns: dict[str, list[Load]] = {name: [] for name in sides}
    for _ in range(3):
        for name, ask in sides.items():
            turns[name].append(load(ask, requests, concurrency, seconds))
    return {
        name: Load(
            statistics.median(each.requests_per_second for each in loads),
            [milliseconds for each in loads for milliseconds in each.milliseconds],
        )
        for name, loads in turns.items()
    }


def load(ask: Ask, requests: Sequence[Sequence[Item]], concurrency: int, seconds: float) -> Load:
    """Returns what so many threads are answered in so many seconds, each asking again as soon as it has its answer."""
    ready = Barrier(concurrency)

    def client(number: int) -> tuple[float, list[float]]:
        milliseconds = []
        ask(requests[number % len(requests)])
        ready.wait()
        began = time.perf_counter()
        for request in islice(cycle(requests), number, None):
            asked = time.perf_counter()
            ask(request)
            now = time.perf_counter()
            milliseconds.append((now - asked) * 1000)
            if now - began >= seconds:
                break
        return len(milliseconds) / (now - began), milliseconds

    with ThreadPoolExecutor(concurrency) as pool:
        found = list(pool.map(client, range(concurrency)))
    return Load(sum(rate for rate, _ in found), [each for _, many in found for each in many])


def one_by_one(items: Sequence[Item]) -> list[list[Item]]:
    return [[item] for item in items]


def image_items(count: int) -> list[Item]:
    """Returns JPEG files of 640 x 480 pixels."""
    noise, items = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480)).save(file, "JPEG", quality=90)
        items.append(Item(image=file.getvalue()))
    return items


if __name__ == "__main__":
    typer.run(main)
