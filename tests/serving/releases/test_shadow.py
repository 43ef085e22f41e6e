"""The report of a shadow is what was compared, and the report of a canary what was counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.events import read_events
from serving.releases import canary, shadow
from serving.releases.judge import Judgement
from serving.releases.shadow import Comparison, ShadowLog, compare, index_of, open_indexes
from serving.routes import Routes, Target, read_routes, write_routes
from serving.search import Entry, Index
from tests.serving.releases.made_up import TargetStats

ROUTES = Routes(Target("embedder", 1), shadow=Target("challenger", 2), shadow_share=1.0)


def unit(rows: np.ndarray) -> np.ndarray:
    lengthened: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return lengthened


@pytest.fixture
def index() -> Index:
    vectors = unit(np.random.default_rng(1).normal(size=(40, 8)))
    return Index(vectors.astype(np.float32), tuple(Entry("", f"{number}.png") for number in range(40)))


def test_equal_versions_agree_and_turned_ones_do_only_in_what_they_find(index: Index) -> None:
    """A version whose space is turned finds the same images in its own index, though every cosine is another."""
    queries = unit(np.random.default_rng(2).normal(size=(5, 8)))
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    turned = Index(index.vectors @ turn, index.entries)
    same = compare(queries, queries, (1.0, 2.0), (index, index))
    assert [one.overlap for one in same] == [1.0] * 5
    assert [one.cosine for one in same] == pytest.approx([1.0] * 5)
    other = compare(queries, queries @ turn, (1.0, 2.0), (index, turned))
    assert [one.overlap for one in other] == [1.0] * 5
    assert max(one.cosine or 0 for one in other) < 0.99
    worse = compare(queries, queries @ turn, (1.0, 2.0), (index, index))
    assert np.mean([one.overlap or 0 for one in worse]) < 0.7, "in the wrong index it finds others"


def test_the_overlap_is_the_share_of_images_that_both_find(index: Index) -> None:
    query, other = unit(np.random.default_rng(4).normal(size=(2, 8)))
    found = [set(np.argsort(-(index.vectors @ vector))[:10]) for vector in (query, other)]
    (comparison,) = compare(query[None], other[None], (1.0, 1.0), (index, index))
    assert comparison.overlap == len(found[0] & found[1]) / 10 < 1


def test_what_cannot_be_compared_is_none(index: Index) -> None:
    long, short = unit(np.ones((1, 8))), unit(np.ones((1, 4)))
    assert compare(long, short, (1.0, 2.0), (index, index)) == [Comparison(None, None, 1.0, 2.0)]
    assert compare(long, long, (1.0, 2.0), None)[0].overlap is None


def test_the_report_is_kept_for_another_process(tmp_path: Path) -> None:
    log = ShadowLog(tmp_path, 2)
    assert shadow.read_report(tmp_path) is None
    log.add([Comparison(0.9, 0.5, 10.0, 20.0), Comparison(1.0, None, 10.0, 40.0)])
    log.fail(3)
    log.write()
    report = shadow.read_report(tmp_path)
    assert report
    assert (report.version, report.compared, report.failed) == (2, 2, 3)
    assert (report.least_cosine, report.median_cosine, report.mean_overlap) == (0.9, 0.95, 0.5)
    assert (report.stable_p50_ms, report.shadow_p50_ms) == (10.0, 30.0)


def test_the_file_is_written_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log = ShadowLog(tmp_path, 2)
    for wanted in (1, 1, 3):
        log.fail()
        report = shadow.read_report(tmp_path)
        assert report
        assert report.failed == wanted
        now += 0.5


def test_indexes_are_there_when_both_were_made(tmp_path: Path, index: Index) -> None:
    for version in (1, 2):
        assert open_indexes(tmp_path, ROUTES) is None
        path = index_of(tmp_path, version)
        path.parent.mkdir(exist_ok=True)
        texts, paths = zip(*index.entries, strict=True)
        np.savez(path, vectors=index.vectors, texts=np.array(texts), image_paths=np.array(paths))
    opened = open_indexes(tmp_path, ROUTES)
    assert opened
    assert opened[1].entries == index.entries


def test_the_report_of_a_canary_is_kept_for_another_process(tmp_path: Path) -> None:
    routes = Routes(Target("embedder", 1), Target("challenger", 2), 0.25)
    assert canary.read_report(tmp_path) is None
    stats = TargetStats(100, 1, [1.0, 2.0, 3.0]), TargetStats(20, 0, [])
    canary.write_report(tmp_path, routes, *stats, Judgement("keep", "nothing against it"))
    report = canary.read_report(tmp_path)
    assert report
    assert (report.share, report.verdict) == (0.25, "keep")
    assert (report.stable.version, report.stable.requests, report.stable.p50_ms) == (1, 100, 2.0)
    assert (report.canary.version, report.canary.p95_ms) == (2, None)


def test_the_judge_of_a_gateway_returns_a_canary_and_says_why(tmp_path: Path) -> None:
    routes = Routes(Target("embedder", 1), Target("challenger", 2), 0.25)
    write_routes(tmp_path, routes)
    ask = canary.CanaryJudge(tmp_path)
    assert ask(TargetStats(300, 1, []), TargetStats(100, 0, [])) is None
    assert read_routes(tmp_path) == routes
    reason = ask(TargetStats(300, 1, []), TargetStats(116, 16, []))
    assert reason and reason.startswith("16 of 116 requests failed")
    assert read_routes(tmp_path) == Routes(Target("embedder", 1))
    report = canary.read_report(tmp_path)
    assert report and (report.verdict, report.reason) == ("return", reason)
    assert [(event["kind"], event["reason"]) for event in read_events(tmp_path)] == [("canary_returned", reason)]
