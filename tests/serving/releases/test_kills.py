"""Deploys that are killed at random moments: no request fails, and `reconcile` makes roles, routes and server agree."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from monitoring import doctor
from serving import TritonServer
from serving.control import loaded
from serving.routes import STABLE, TRIAL, Target, read_routes
from tests.serving.releases.conftest import HOME, Workspace, traffic
from tests.serving.releases.killed import act

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.serving.releases.killed"])
KILLS = 50
PATIENCE_SECONDS = 120
ACTS: tuple[tuple[int | None, float | None, float | None], ...] = (
    (None, None, None), (2, 0.5, None), (3, None, 1.0), (4, 0.1, None),
)  # fmt: skip
"""The version, its share as a canary, and as a shadow; the first loads the champion anew."""


def run(what: Sequence[float | None], seconds: float) -> int | None:
    """Deploys in a process of its own, killed after some seconds; returns how it ended."""
    process = CONTEXT.Process(target=act, args=(Path.cwd(), *what))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def inconsistencies(server: TritonServer) -> list[str]:
    """Returns what does not agree after `reconcile`."""
    said = CliRunner().invoke(app, ["reconcile"])
    found = [] if said.exit_code == 0 else [said.output]
    roles, routes = doctor.roles(Path()), read_routes(HOME)
    found += [] if roles.ok else [roles.detail]
    if routes is None or routes.stable != Target(STABLE, 1):
        return [*found, f"the routes are {routes}"]
    trials = [target.version for target in (routes.canary, routes.shadow) if target]
    held = {model: loaded(server, model) for model in (STABLE, TRIAL)}
    if held[STABLE] != [1] or not set(trials) <= set(held[TRIAL]):
        found.append(f"routes {routes}, but the server holds {held}")
    return found


def test_whenever_a_deploy_is_killed_users_are_answered_and_reconcile_finds_one_truth(
    workspace: Workspace, own_server: TritonServer
) -> None:
    lasts = []
    for what in ACTS:
        began = time.monotonic()
        assert run(what, PATIENCE_SECONDS) == 0, what
        lasts.append(time.monotonic() - began)
    chance, ended = random.Random(14), list[int | None]()
    with traffic(workspace, own_server.url) as seen:
        for number in range(KILLS):
            place = number % len(ACTS)
            ended.append(run(ACTS[place], chance.uniform(0.02, 1.05) * lasts[place]))
            assert inconsistencies(own_server) == [], f"{ACTS[place]}, kill {number}"
    assert sum(code == -9 for code in ended) > KILLS / 2 and set(ended) <= {0, -9}, ended
    assert seen.errors == [] and set(seen.unnamed) == {1}
    assert run(ACTS[0], PATIENCE_SECONDS) == 0, "the next deploy is not in the way of what a killed one left"
