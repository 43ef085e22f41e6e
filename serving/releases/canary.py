"""A canary is sent back: by whoever judges it, or because it does not answer its bundle's examples."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from components.errors import EmbedlineError
from components.files import write_text
from serving import control, known_answers
from serving.events import record
from serving.releases.judge import CanaryLimits, Counted, Judgement, judge
from serving.routes import Routes, Target, change_routes, read_routes

REPORT = "canary.json"
REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Summary:
    """What one target has done since the canary began; the latencies are None before it has answered."""

    version: int
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True)
class CanaryReport:
    """A canary beside stable, and what was last said of it."""

    share: float
    stable: Summary
    canary: Summary
    verdict: str
    reason: str


def return_canary(home: Path, reason: str) -> bool:
    """Sends every key to stable from now on; returns whether there was a canary. The version stays loaded until the
    next release, so that no request that is under way fails."""
    returned: list[Target] = []

    def without_canary(now: Routes | None) -> Routes:
        routes = now or read_routes(home)
        returned.extend([routes.canary] if routes.canary else [])
        return replace(routes, canary=None, canary_share=0.0)

    change_routes(home, without_canary)
    for canary in returned:
        record(home, "canary_returned", version=canary.version, reason=reason)
    return bool(returned)


class CanaryJudge:
    """What a gateway asks from time to time, with what stable and the canary did since the canary began.

    It sends the canary back if it has to go, and returns why, None as long as it may stay; the report of `home` is kept
    up to date, at most every `REPORT_SECONDS`.
    """

    def __init__(self, home: Path, limits: CanaryLimits | None = None) -> None:
        self.home = home
        self.limits = limits or CanaryLimits()
        self.reported = float("-inf")

    def __call__(self, stable: Counted, canary: Counted) -> str | None:
        judgement = judge(stable, canary, self.limits)
        goes = judgement.verdict == "return"
        if goes or time.monotonic() - self.reported >= REPORT_SECONDS:
            write_report(self.home, read_routes(self.home), stable, canary, judgement)
            self.reported = time.monotonic()
        if not goes:
            return None
        return_canary(self.home, judgement.reason)
        return judgement.reason


def watch_canary(home: Path, url: str) -> Judgement:
    """Has the canary on the server at `url` answer its bundle's examples, and returns it if it does not.

    Where stable does not answer either, the server is to blame, and the canary stays.
    """
    routes = read_routes(home)
    if routes.canary is None:
        return Judgement("keep", "there is no canary")
    if (problem := golden_problem(home, url, routes.canary)) is None:
        return Judgement("keep", "it answers its bundle's examples")
    if golden_problem(home, url, routes.stable) is not None:
        return Judgement("keep", f"stable does not answer either: {problem}")
    return_canary(home, problem)
    return Judgement("return", problem)


def golden_problem(home: Path, url: str, target: Target) -> str | None:
    """Returns what is wrong with a target's answers to its bundle's examples, if anything is."""
    answers = known_answers.folder(home / "model_repository", target.version)
    try:
        control.probe(url, answers, target.version, target.model)
    except EmbedlineError as error:
        return error.problem
    return None


def write_report(home: Path, routes: Routes, stable: Counted, canary: Counted, judgement: Judgement) -> None:
    """Keeps what was counted of the canary and of stable since it began, for `embedline routes`."""
    if routes.canary is None:
        return
    report = CanaryReport(
        routes.canary_share, summary(routes.stable, stable), summary(routes.canary, canary), judgement.verdict,
        judgement.reason,
    )  # fmt: skip
    write_text(home / REPORT, json.dumps(asdict(report)) + "\n")


def read_report(home: Path) -> CanaryReport | None:
    """Returns what was last kept, also of a canary that is over."""
    path = home / REPORT
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    return CanaryReport(**facts | {name: Summary(**facts[name]) for name in ("stable", "canary")})


def summary(target: Target, stats: Counted) -> Summary:
    p50, p95 = np.quantile(stats.latencies_ms, [0.5, 0.95]).tolist() if len(stats.latencies_ms) else (None, None)
    return Summary(target.version, stats.requests, stats.errors, p50, p95)
