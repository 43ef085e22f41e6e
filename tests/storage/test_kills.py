"""Killed at random moments, or with no room left on the disk: `reconcile` leaves one truth, and what is kept opens."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest

from components.registry import ledger, models, promotion, retention
from components.registry.agreement import disagreements
from components.stages.prune import Served, look, prune
from components.storage import Storage
from tests.storage.conftest import Rounds
from tests.storage.killed import act

pytestmark = [pytest.mark.slow, pytest.mark.system("git")]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.storage.killed", "dvc.repo"])
KILLS = 150
ACTS = ("promote", "rollback", "approve", "prune")
PATIENCE_SECONDS = 60


def prepare(rounds: Rounds, what: str, seed: int) -> str:
    """Makes the workspace ready for an act; returns the version that it is about."""
    roles = models.roles(rounds.tracked)
    if what == "prune":
        return rounds.register_made_up(seed)
    if what == "rollback" and roles["previous"]:
        return ""
    version = rounds.register_made_up(seed)
    promotion.nominate(rounds.tracked, version)
    if what == "rollback":
        rounds.promote(version)
        return prepare(rounds, what, seed + 1)
    return version


def inconsistencies(rounds: Rounds, folder: Path) -> list[str]:
    """Returns what does not agree after `reconcile`: roles, ledger, its mirror, the bundles that were not pruned."""
    tracked = rounds.tracked
    promotion.reconcile(tracked)
    entries = promotion.history(tracked)
    found = [each.what for each in disagreements(models.roles(tracked), entries, None)]
    promotion.compare_with_mirror(tracked)
    known = models.versions(tracked)
    for version in retention.kept(tracked, entries, (), 1):
        if models.PRUNED in known[version]:
            found.append(f"version {version} is kept and pruned")
    for version, tags in known.items():
        if models.PRUNED not in tags:
            models.download(tracked, version, folder)  # raises unless its bytes are those that were registered
    return found


def run(rounds: Rounds, what: str, version: str, seconds: float | None, most_bytes: int | None = None) -> int | None:
    """Does an act in a process of its own, killed after some seconds; returns how it ended."""
    process = CONTEXT.Process(target=act, args=(rounds.root, what, version, most_bytes))
    process.start()
    process.join(PATIENCE_SECONDS if seconds is None else seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


@pytest.fixture
def mirrored(rounds: Rounds) -> Rounds:
    rounds.change(registry={"mirror": "ledger.jsonl"})
    for seed in (1, 2):
        rounds.promote(rounds.register_made_up(seed))
    return rounds


@pytest.mark.nightly
def test_whenever_it_is_killed_reconcile_finds_one_truth(mirrored: Rounds, tmp_path: Path) -> None:
    lasts = {}
    for number, what in enumerate(ACTS):
        version, began = prepare(mirrored, what, 10 + 2 * number), time.monotonic()
        assert run(mirrored, what, version, None) == 0, what
        lasts[what] = time.monotonic() - began
    chance = random.Random(13)
    ended: dict[str, list[int | None]] = {what: [] for what in ACTS}
    for number in range(KILLS):
        what = ACTS[number % len(ACTS)]
        version = prepare(mirrored, what, 100 + 2 * number)
        ended[what].append(run(mirrored, what, version, chance.uniform(0.1, 1.05) * lasts[what]))
        assert inconsistencies(mirrored, tmp_path / "fetched") == [], f"{what}, kill {number}"
    assert sum(code == -9 for codes in ended.values() for code in codes) > KILLS / 2, ended
    assert all(code in (0, -9) for codes in ended.values() for code in codes), ended
    prune(mirrored.root, Storage(keep_champions=1), Served)
    assert not any(each.kind == "bundle" for each in look(mirrored.root, Storage(keep_champions=1), Served()).unneeded)


@pytest.mark.parametrize("what", ACTS)
def test_a_full_disk_during_any_step_loses_nothing(mirrored: Rounds, what: str, tmp_path: Path) -> None:
    state = mirrored.root / ".embedline"
    failed = 0
    for number, beyond in enumerate((-10_000_000, 0, 10, 600, 5_000)):
        version = prepare(mirrored, what, 100 + 2 * number)
        length = (state / "ledger.jsonl").stat().st_size
        failed += run(mirrored, what, version, None, max(0, length + beyond)) != 0
        assert inconsistencies(mirrored, tmp_path / "fetched") == [], f"{what}, {beyond} bytes more than the ledger"
    assert failed >= 2, "the disk was never full"


def test_what_does_not_agree_is_found(mirrored: Rounds, tmp_path: Path) -> None:
    assert inconsistencies(mirrored, tmp_path / "fetched") == []
    models.mark_pruned(mirrored.tracked, "1", "now")
    assert inconsistencies(mirrored, tmp_path / "fetched") == ["version 1 is kept and pruned"]
    models.set_role(mirrored.tracked, "champion", "1")
    assert len(inconsistencies(mirrored, tmp_path / "fetched")) == 2
    assert ledger.lines(mirrored.root / "ledger.jsonl")
