"""Canary and shadow through a real gateway and a real Triton: who is answered by what, and what is never felt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components.corpus.item import Item
from serving import TritonEmbedder, TritonServer
from serving.gateway.refusal import Refusal
from serving.gateway.routing import JUDGE_EVERY, Router
from serving.gateway.windows import TargetWindow, percentile
from serving.routes import REREAD_SECONDS, Routes, Target, write_routes
from tests.serving.gateway.conftest import RunningGateway, running, wait_until
from tests.serving.gateway.test_app import vectors

STABLE, OTHER, MISSING = Target("embedder", 2), Target("embedder", 1), Target("challenger", 9)


@pytest.fixture(scope="module")
def routed(triton_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    home = tmp_path_factory.mktemp("routed")
    write_routes(home, Routes(STABLE))
    with running(home, triton=triton_address) as started:
        yield started


def follow(gateway: RunningGateway, routes: Routes) -> None:
    """Writes the routes and waits until the gateway follows them."""
    write_routes(gateway.home, routes)
    wanted = {name: target for name in ("stable", "canary", "shadow") if (target := getattr(routes, name))}

    def followed() -> bool:
        facts = gateway.get("/v1/routes").json()
        found = {name: Target(each["model"], each["version"]) for name, each in facts.items()}
        trials = [name for name in wanted if name != "stable"]
        return found == wanted and all(facts[name]["share"] == getattr(routes, f"{name}_share") for name in trials)

    wait_until(followed)


def version(gateway: RunningGateway, user: str) -> int:
    return int(gateway.ask("a cat", user=user).headers["embedline-version"])


def test_users_keep_their_version_and_a_growing_share_only_adds(routed: RunningGateway) -> None:
    users = [f"user {number}" for number in range(24)]
    seen = []
    for share in (0.3, 0.7):
        follow(routed, Routes(STABLE, canary=OTHER, canary_share=share))
        once, again = ({user: version(routed, user) for user in users} for _ in range(2))
        assert once == again and set(once.values()) == {1, 2}
        seen.append({user for user, found in once.items() if found == 1})
    assert seen[0] < seen[1]
    assert routed.get("/v1/routes").json()["canary"]["requests"] > 0


def test_the_vectors_are_those_of_the_version_that_is_named(
    routed: RunningGateway, session_server: TritonServer
) -> None:
    follow(routed, Routes(STABLE, canary=OTHER, canary_share=1.0))
    for number, named in ((1, "embedder"), (1, "embedder/1"), (2, "embedder/2")):
        expected = TritonEmbedder(session_server.url, version=number).encode([Item("a sad cat")])
        answer = routed.ask("a sad cat", model=named)
        assert answer.headers["embedline-version"] == str(number) and answer.json()["model"] == f"embedder/{number}"
        np.testing.assert_allclose(vectors(answer), expected, atol=1e-6)
    assert routed.ask("a cat", model="embedder/3").status_code == 404


def test_a_canary_that_cannot_answer_is_not_felt(routed: RunningGateway) -> None:
    follow(routed, Routes(STABLE, canary=MISSING, canary_share=1.0))
    for _ in range(4):
        answer = routed.ask("a sad cat")
        assert answer.status_code == 200 and answer.headers["embedline-version"] == "2"
    canary = routed.get("/v1/routes").json()["canary"]
    assert canary["requests"] == canary["errors"] == 4
    assert 'embedline_gateway_canary_fallbacks_total{version="9"} 4.0' in routed.get("/metrics").text
    assert routed.ask("", user="a").status_code == 400, "what nobody can answer is no error of the canary"
    assert routed.get("/v1/routes").json()["canary"]["errors"] == 4


def test_a_shadow_is_compared_and_never_felt(routed: RunningGateway) -> None:
    for target, same in ((STABLE, True), (OTHER, False)):
        follow(routed, Routes(Target("embedder", 2), shadow=target, shadow_share=1.0))
        answers = [routed.ask([f"a {word} cat" for word in ("sad", "happy", "red")]) for _ in range(8)]
        assert {answer.headers["embedline-version"] for answer in answers} == {"2"}
        if same:
            assert "compared" not in routed.get("/v1/routes").json()["shadow"], "a version is no shadow of itself"
            continue
        wait_until(lambda: routed.get("/v1/routes").json()["shadow"].get("compared", 0) >= 24)
        shadow = routed.get("/v1/routes").json()["shadow"]
        assert shadow["errors"] == 0 and shadow["cosine_min"] <= shadow["cosine_median"] < 0.99
        assert shadow["overlap_of_10"] is None and shadow["p95_ms"] > 0, "nobody has searched here: there is no index"
    follow(routed, Routes(STABLE, shadow=MISSING, shadow_share=1.0))
    assert routed.ask("a cat").status_code == 200
    wait_until(lambda: routed.get("/v1/routes").json()["shadow"]["errors"] == 1)


def test_a_judge_sends_a_canary_back(tmp_path: Path) -> None:
    asked: list[int] = []

    def judge(stable: TargetWindow, canary: TargetWindow) -> str | None:
        asked.append(canary.requests)
        return "too many errors" if canary.errors > canary.requests / 2 else None

    write_routes(tmp_path, Routes(STABLE, canary=OTHER, canary_share=1.0))
    router = Router(tmp_path, judge)
    for _ in range(JUDGE_EVERY):
        router.record(OTHER, True, 0.1)
    assert router.choose("embedder", "a") == OTHER and asked == [JUDGE_EVERY]
    for _ in range(2 * JUDGE_EVERY):
        router.record(OTHER, False, 0.1)
    assert router.choose("embedder", "a") == STABLE and router.returned == (OTHER, "too many errors")
    write_routes(tmp_path, Routes(STABLE, canary=MISSING, canary_share=1.0))
    router.followed.looked = -REREAD_SECONDS
    assert router.choose("embedder", "a") == MISSING, "another canary gets its chance"


def test_before_a_deployment_the_newest_version_answers(tmp_path: Path) -> None:
    router = Router(tmp_path)
    assert router.choose("embedder", "a") == Target("embedder", 0)
    for name in ("embedder/0", "embedder/-1", "embedder/x", "embedder/", "other/1", "embedder/99999999999"):
        with pytest.raises(Refusal):
            router.choose(name, "a")


def test_windows_keep_the_last_results() -> None:
    window = TargetWindow()
    assert window.facts() == {"requests": 0, "errors": 0, "p50_ms": None, "p95_ms": None}
    for number in range(1, 101):
        window.add(number % 10 != 0, number / 1000)
    assert window.facts() == {"requests": 100, "errors": 10, "p50_ms": 49, "p95_ms": 95}
    assert [percentile([1, 2, 3, 4], share) for share in (0, 0.25, 0.5, 0.95, 1)] == [1, 1, 2, 4, 4]
