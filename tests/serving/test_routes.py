"""Each key has one version: a canary gets its share of the keys and keeps them as the share grows."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from components.errors import EmbedlineError, UsageError
from serving.routes import REREAD_SECONDS, ROUTES, FollowedRoutes, Routes, Target, read_routes, route, write_routes

STABLE, CANARY = Target("embedder", 3), Target("challenger", 4)
SHARES = st.floats(0, 1)


def trial(share: float, version: int = 4) -> Routes:
    return Routes(STABLE, Target("challenger", version), share)


@given(key=st.text(), shares=st.tuples(SHARES, SHARES))
def test_a_growing_share_moves_keys_to_the_canary_only(key: str, shares: tuple[float, float]) -> None:
    small, large = (route(trial(share), key) for share in sorted(shares))
    assert (small, large) in {(STABLE, STABLE), (STABLE, CANARY), (CANARY, CANARY)}


@given(st.text())
def test_no_share_and_the_whole_share_are_exact(key: str) -> None:
    assert route(trial(0), key) == route(Routes(STABLE), key) == STABLE
    assert route(trial(1), key) == CANARY


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_canary_gets_its_share_of_the_keys(share: float) -> None:
    keys = [f"user {number}" for number in range(20_000)]
    answered = sum(route(trial(share), key) == CANARY for key in keys)
    assert binomtest(answered, len(keys), share).pvalue > 1e-4
    assert binomtest(answered, len(keys), share + 0.03).pvalue < 1e-4, "the test would notice another share"


def test_the_next_canary_is_tried_by_other_users() -> None:
    keys = [f"user {number}" for number in range(20_000)]
    both = sum(route(trial(0.1, 4), key) != STABLE and route(trial(0.1, 5), key) != STABLE for key in keys)
    assert binomtest(both, len(keys), 0.01).pvalue > 1e-4


@given(canary_share=SHARES, shadow_share=SHARES)
def test_routes_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, canary_share: float, shadow_share: float
) -> None:
    home = tmp_path_factory.mktemp("home")
    written = Routes(STABLE, CANARY, canary_share, Target("challenger", 5), shadow_share)
    write_routes(home, written)
    assert read_routes(home) == written
    assert [path.name for path in home.iterdir()] == [ROUTES]


def test_before_the_first_deployment_there_are_no_routes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no version is deployed"):
        read_routes(tmp_path)
    with pytest.raises(UsageError, match="no version is deployed"):
        FollowedRoutes(tmp_path).read()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"stable": {"model": "embedder"}}', '{"stable": null, "canary": null, "shadow": null}'],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ROUTES).write_text(text)
    with pytest.raises(EmbedlineError, match=r"routes\.json says no routes"):
        read_routes(tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="is no share"):
        Routes(STABLE, CANARY, share)
    with pytest.raises(UsageError, match="is no share"):
        Routes(STABLE, shadow=CANARY, shadow_share=share)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"canary share 0\.1 without a canary"):
        Routes(STABLE, canary_share=0.1)


def test_a_reader_follows_the_file_and_looks_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    write_routes(tmp_path, trial(0.1))
    followed = FollowedRoutes(tmp_path)
    assert followed.read() == trial(0.1)
    write_routes(tmp_path, trial(0.2))
    assert followed.read() == trial(0.1)
    now += REREAD_SECONDS
    assert followed.read() == trial(0.2)
    (tmp_path / ROUTES).unlink()
    now += REREAD_SECONDS
    with pytest.raises(UsageError):
        followed.read()
    write_routes(tmp_path, trial(0.3))
    assert followed.read() == trial(0.3)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    write_routes(tmp_path, trial(0.5))
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            write_routes(tmp_path, replace(trial(0.5), canary_share=(number % 100) / 100))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            assert read_routes(tmp_path).stable == STABLE
    finally:
        over.set()
        writer.join()
