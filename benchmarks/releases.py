"""What users notice of a release: failed requests and latency while versions are deployed, tried, promoted and rolled
back under constant load, how long a rollback takes, and the server's memory after many deployments.

    python benchmarks/releases.py            the walk, then 50 deployments (some minutes)
    python benchmarks/releases.py --quick    the walk, then 5

The versions are this checkout's bundle, registered three times in a workspace of its own. Three clients ask by the
routes, as the gateway does, one without naming a version; each at a constant rate, whatever the answers take.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from components.corpus import Item
from components.errors import EmbedlineError
from components.quiet import configure
from components.registry import Verdict, models, promotion, tracking
from components.registry.tracking import Tracking
from components.scores import Model, Scores
from components.workspace import BUNDLE, STATE
from serving import TritonEmbedder, TritonServer
from serving.releases.deploy import deploy, try_version
from serving.roles import follow_roles, roll_back, serve_versions
from serving.routes import STABLE, FollowedRoutes, route
from table import Row, show

REQUESTS_A_SECOND = 10
"""Of each client: half of what the server can bear, or less, on two cores."""
CLIENTS = 4
CALM_SECONDS = 10
ROLLBACK_GOAL_SECONDS = 10
GROWTH_GOAL = 1.05


@dataclass
class Seen:
    """What the clients saw: when each request was due (in seconds, monotonic), its milliseconds, the errors."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def p99(self, start: float, stop: float) -> float:
        return float(np.quantile([ms for began, ms in self.answers if start <= began < stop], 0.99))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few deployments.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    workspace: Annotated[Path, typer.Option(help="Where `embedline run` was called.")] = Path(),
) -> None:
    configure()
    bundle = (workspace / BUNDLE).resolve()
    if not bundle.is_dir():
        raise SystemExit(f"{bundle} is missing: `embedline run` makes it")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            tracked = tracking.prepare(Path())
            register(tracked, bundle, 3)
            make_champion(tracked, 1)
            with TritonServer.start(STATE, 0, 0, 0) as server:
                serve_versions(server, tracked)
                rows = [*walk(server, tracked), memory(server, 5 if quick else 50)]
        finally:
            os.chdir(here)
    show("Releases", rows, machine, caption="")


def walk(server: TritonServer, tracked: Tracking) -> Iterator[Row]:
    """Yields what was seen over each change of version under load."""
    changes: dict[str, Callable[[], object]] = {
        "deploy": lambda: deploy(STATE, 1),
        "canary": lambda: try_version(STATE, 2, "canary", 0.3),
        "promotion": lambda: promote(tracked, 2),
        "rollback": lambda: roll_back(STATE, "benchmark"),
    }
    with load(server) as seen:
        time.sleep(1)  # the clients' first requests
        calm = time.monotonic()
        time.sleep(CALM_SECONDS)
        spans = {"before": (calm, time.monotonic())}
        for name, change in changes.items():
            began = time.monotonic()
            change()
            spans[name] = began, time.monotonic()
            time.sleep(2)
        calm = time.monotonic()
        time.sleep(CALM_SECONDS)
        spans["after"] = calm, time.monotonic()
    yield Row("requests", len(seen.answers) + len(seen.errors), "")
    yield Row("requests that failed", len(seen.errors), "", goal=0, met=not seen.errors)
    for error in sorted(set(seen.errors)):
        typer.echo(error, err=True)
    for name, (start, stop) in spans.items():
        yield Row(f"p99, {name}", seen.p99(start, stop), "ms")
    for name in changes:
        seconds = spans[name][1] - spans[name][0]
        limited = name == "rollback"
        goal = ROLLBACK_GOAL_SECONDS if limited else None
        yield Row(f"seconds, {name}", seconds, "s", goal=goal, met=seconds < ROLLBACK_GOAL_SECONDS if limited else None)


def memory(server: TritonServer, deployments: int) -> Row:
    """Returns how many times its memory the server has after so many deployments under load; eight have warmed it."""
    with load(server):
        deploy_by_turns(8)
        before = resident(server)
        deploy_by_turns(deployments)
        after = resident(server)
    name = f"memory after {deployments} deployments, {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
    return Row(name, after / before, "times", goal=GROWTH_GOAL, met=after / before <= GROWTH_GOAL)


def deploy_by_turns(deployments: int) -> None:
    """Deploys the champion anew and two canaries by turns; each canary unloads the other."""
    for number in range(deployments):
        if number % 2:
            try_version(STATE, 2 + number // 2 % 2, "canary", 0.3)
        else:
            deploy(STATE, 1)


def resident(server: TritonServer) -> int:
    """Returns the resident bytes of the server and its model processes, memory that they share counted once each."""
    process = psutil.Process(server.pid)
    return sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)])


@contextmanager
def load(server: TritonServer) -> Iterator[Seen]:
    """Has a process of its own ask all the time; what it has seen is there at the end."""
    seen, spawn = Seen(), multiprocessing.get_context("spawn")
    over, answers = spawn.Event(), spawn.SimpleQueue()
    clients = spawn.Process(target=ask_all, args=(server.url, STATE.resolve(), over, answers))
    clients.start()
    answers.get()  # it has begun
    try:
        yield seen
    finally:
        over.set()
        seen.answers, seen.errors = answers.get()
        clients.join()


def ask_all(url: str, home: Path, over: Any, answers: Any) -> None:
    """Asks at a constant rate until it is over: the next request begins when it is due, however long the last took."""
    seen, followed = Seen(), FollowedRoutes(home)

    def ask(client: int) -> None:
        due = time.monotonic() + client / CLIENTS / REQUESTS_A_SECOND
        number = 0
        while not over.is_set():
            time.sleep(max(0, due - time.monotonic()))
            target = route(followed.read(), f"user {client} {number % 50}")
            model, version = (target.model, target.version) if client else (STABLE, None)
            try:
                TritonEmbedder(url, model, version).encode([Item(text=f"a sad cat {number}")])
                seen.answers.append((due, (time.monotonic() - due) * 1000))
            except EmbedlineError as error:
                seen.errors.append(error.problem)
            number += 1
            due += 1 / REQUESTS_A_SECOND

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    answers.put("begun")
    for thread in threads:
        thread.join()
    answers.put((seen.answers, seen.errors))


def register(tracked: Tracking, bundle: Path, versions: int) -> None:
    """Registers the bundle under as many fingerprints; the files that are served are the same."""
    round_ = tracking.start_round(tracked, {}, {})
    for number in range(1, versions + 1):
        copy = Path(shutil.copytree(bundle, f"bundle{number}"))
        described = json.loads((copy / "bundle.json").read_text())
        (copy / "bundle.json").write_text(json.dumps(described | {"fingerprint": f"{number:064x}"}))
        models.register(round_, copy, made_up_scores(number), {})
        shutil.rmtree(copy)
    tracking.end_round(round_, succeeded=True)


def made_up_scores(number: int) -> Scores:
    model = Model(f"version {number}", f"{number:064x}", 4, None)
    return Scores(model, "none", "none", "none", "none", {}, [], [], {"overall": 0.5}, {})


def make_champion(tracked: Tracking, version: int) -> None:
    champion = models.role(tracked, "champion")
    promotion.nominate(tracked, str(version))
    against = f"{int(champion):064x}" if champion else None
    quality = Verdict("quality", f"{version:064x}", against, (), (), {})
    infrastructure = Verdict("infrastructure", f"{version:064x}", against, (), (), {})
    promotion.promote(tracked, str(version), quality, infrastructure)


def promote(tracked: Tracking, version: int) -> None:
    make_champion(tracked, version)
    follow_roles(STATE, tracked)


if __name__ == "__main__":
    typer.run(main)
