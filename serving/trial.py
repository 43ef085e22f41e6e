"""One trial on a server of its own, as a process of its own: what was measured goes to standard output as JSON.

Challenger and champion are asked by turns over the same requests, in blocks of equal work, so that whatever else the
machine does meanwhile falls on both. A block's speed is compared with that of its neighbour only.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from components.corpus import Item
from components.errors import EmbedlineError, Refused
from components.export import read_examples
from components.scores import median_interval
from serving import repository
from serving.client import Row, TritonEmbedder, as_row, connect
from serving.control import least_cosine, load
from serving.environment import prepare
from serving.sandbox import BlockedSockets, Proof, block_sockets, network_tries, start_loopback
from serving.triton import TritonServer

PROBES = 20
PAIRS = 12
BLOCK_SECONDS = 0.25
VERSION = 1
CHAMPION = "champion"


@dataclass(frozen=True)
class Trial:
    """What is tried where: folders by their paths, requests `concurrency` at a time, bounds of `confidence`."""

    home: str
    bundle: str
    champion: str | None
    startup_seconds: float
    concurrency: int
    confidence: float
    proof: Proof


@dataclass(frozen=True)
class Block:
    """The latencies of some requests in seconds, and how long they took together."""

    latencies: tuple[float, ...]
    seconds: float

    @property
    def latency(self) -> float:
        return statistics.median(self.latencies)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def try_out(trial: Trial) -> dict[str, Any]:
    """Returns the evidence that `serving.evidence.measure` returns, but for what the bundle's files say alone."""
    home, bundle = Path(trial.home).resolve(), Path(trial.bundle)
    tries_file = home / "network_tries.log"
    tries_file.unlink(missing_ok=True)
    with fresh_server(home, trial, tries_file) as server:
        before = network_tries(trial.proof, tries_file)
        challenger, load_seconds = loaded(server, bundle, repository.MODEL, trial, before, tries_file)
        found = answers(challenger, bundle)
        found["latency_ms"] = statistics.median(seconds_of(challenger, Item(text=f"probe {n}")) for n in range(PROBES))
        found["latency_ms"] *= 1000
        found["network_tries"] = network_tries(trial.proof, tries_file) - before
        if found["answered_fraction"]:
            models = [challenger]
            if trial.champion:
                champion, champion_seconds = loaded(server, Path(trial.champion), CHAMPION, trial, None, tries_file)
                models.append(champion)
            blocks = by_turns(server.url, models, requests_for(models, bundle), trial)
            found |= speed(blocks[0])
            if trial.champion:
                found |= {f"{CHAMPION}_{name}": value for name, value in speed(blocks[1]).items()}
                found |= slowdown(blocks[0], blocks[1], trial.confidence)
                found[f"{CHAMPION}_load_seconds"] = champion_seconds
                found[f"{CHAMPION}_memory_bytes"] = resident_bytes(server, CHAMPION)
        found |= {"load_seconds": load_seconds, "memory_bytes": resident_bytes(server, repository.MODEL)}
    return found


@contextmanager
def fresh_server(home: Path, trial: Trial, tries: Path) -> Iterator[TritonServer]:
    """Yields a server on free ports with an empty repository; one that still runs in `home` is stopped first."""
    if left := TritonServer.find(home):
        left.stop()
    if (old := home / "model_repository").exists():
        shutil.rmtree(old)
    environment = prepare(home / "model_repository")
    if trial.proof == "blocked sockets":
        environment = BlockedSockets(environment.home, tries)
    with TritonServer.start(home, 0, 0, 0, trial.startup_seconds, environment) as server:
        yield server


def loaded(
    server: TritonServer, bundle: Path, model: str, trial: Trial, before: int | None, tries: Path
) -> tuple[TritonEmbedder, float]:
    """Returns the bundle as a model of the server, and how many seconds it took to be ready.

    Raises `Refused` if it does not get ready and has tried to reach the network since there were `before` tries.
    """
    repository.add_version(server.repository, bundle, VERSION, model)
    if trial.proof == "blocked sockets":
        block_sockets(server.repository / model / str(VERSION))
    config = (bundle / repository.CONFIG).read_text(encoding="utf-8")
    repository.write_config(server.repository, config, [VERSION], model)
    began = time.perf_counter()
    try:
        load(server, model)
    except EmbedlineError as error:
        if before is not None and (count := network_tries(trial.proof, tries) - before):
            problem = f"the bundle does not load without a network, which it tried to reach {count} times"
            raise Refused(f"{problem} ({trial.proof}): {error.problem}", "Put into it what it loads.") from error
        if model == CHAMPION:
            raise EmbedlineError(f"the champion does not load beside it: {error.problem}", error.remedy) from error
        raise
    return TritonEmbedder(server.url, model, VERSION), time.perf_counter() - began


def answers(embedder: TritonEmbedder, bundle: Path) -> dict[str, Any]:
    """Returns how many of the bundle's examples are answered, how right, and why the others are not."""
    examples, expected = read_examples(bundle)
    right, unanswered = [], []
    for example, known in zip(examples, expected, strict=True):
        try:
            vector = embedder.encode([example])[0]
        except EmbedlineError as error:
            unanswered.append(error.problem)
            continue
        if vector.shape == known.shape:
            right.append((vector, known))
        else:
            unanswered.append(f"it has {len(vector)} numbers, not {len(known)}")
    return {
        "server_cosine": least_cosine(*map(np.stack, zip(*right, strict=True))) if right else -1.0,
        "answered_fraction": len(right) / len(examples) if examples else 0.0,
        "unanswered": unanswered,
    }


def requests_for(models: Sequence[TritonEmbedder], bundle: Path) -> list[Row]:
    """Returns the bundle's examples that every model answers: one may take images and another not.

    Raises `EmbedlineError` if there are none.
    """
    examples, _ = read_examples(bundle)
    rows = []
    for position, example in enumerate(examples):
        try:
            for model in models:
                model.encode([example])
        except EmbedlineError:
            continue
        rows.append(as_row(position, example))
    if not rows:
        raise EmbedlineError("challenger and champion answer no example both", "Package the bundle with such examples.")
    return rows


def by_turns(url: str, models: Sequence[TritonEmbedder], rows: Sequence[Row], trial: Trial) -> list[list[Block]]:
    """Returns the blocks of each model: the same requests in each, first the one model's, then the other's."""
    warm = [ask(url, model, rows, trial.concurrency) for model in models]
    passes = max(1, int(BLOCK_SECONDS / max(block.seconds for block in warm)))
    blocks: list[list[Block]] = [[] for _ in models]
    for pair in range(max(PAIRS, math.ceil(-math.log2(1 - trial.confidence)))):
        for place in range(len(models))[:: -1 if pair % 2 else 1]:
            blocks[place].append(ask(url, models[place], list(rows) * passes, trial.concurrency))
    return blocks


def ask(url: str, model: TritonEmbedder, rows: Sequence[Row], concurrency: int) -> Block:
    """Sends each row as a request of its own, so many at a time over as many open connections."""
    waiting, latencies = iter(rows), list[float]()

    def work(_: int) -> None:
        with connect(url, model.timeout_seconds) as client:
            for row in waiting:
                began = time.perf_counter()
                model.infer(client, [row])
                latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(work, range(concurrency)))
    return Block(tuple(latencies), time.perf_counter() - began)


def speed(blocks: Sequence[Block]) -> dict[str, float]:
    return {
        "loaded_latency_ms": statistics.median(block.latency for block in blocks) * 1000,
        "requests_per_second": statistics.median(block.rate for block in blocks),
    }


def slowdown(challenger: Sequence[Block], champion: Sequence[Block], confidence: float) -> dict[str, float]:
    """Returns how many times as slow the challenger is, by latency and by throughput: the median over the pairs of
    blocks, and the bound on each side that holds with this confidence."""
    pairs = list(zip(challenger, champion, strict=True))
    ratios = {
        "slowdown_latency": np.array([ours.latency / theirs.latency for ours, theirs in pairs]),
        "slowdown_throughput": np.array([theirs.rate / ours.rate for ours, theirs in pairs]),
    }
    found: dict[str, float] = {}
    for name, values in ratios.items():
        lower, upper = median_interval(values, 2 * confidence - 1)
        found |= {name: float(np.median(values)), f"{name}_lower": lower, f"{name}_upper": upper}
    return found


def resident_bytes(server: TritonServer, model: str) -> int:
    """Returns the resident memory of the server's process and of the processes that run this model's versions."""
    folder, process = f"{server.repository / model}/", psutil.Process(server.pid)
    own = [each for each in process.children() if any(argument.startswith(folder) for argument in each.cmdline())]
    return sum(each.memory_info().rss for each in (process, *own))


def seconds_of(embedder: TritonEmbedder, item: Item) -> float:
    began = time.perf_counter()
    embedder.encode([item])
    return time.perf_counter() - began


def main(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the evidence, or the error that ended the trial."""
    trial = Trial(**arguments)
    if trial.proof == "network namespace":
        start_loopback()
    try:
        return try_out(trial)
    except EmbedlineError as error:
        return {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}


def command(trial: Trial) -> list[str]:
    """Returns the command that runs a trial by `main` in another process."""
    return [sys.executable, "-P", "-m", __name__, json.dumps(asdict(trial))]


if __name__ == "__main__":
    print(json.dumps(main(cast("Mapping[str, Any]", json.loads(sys.argv[1])))))
