"""A window is judged: what moved, where, by how much; alarm and harm apart; the promised alarms a month are kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, poisson

from components.errors import DataInvalid, UsageError
from components.files import folder_sha256
from components.monitoring.config import Monitoring
from components.registry import models, tracking
from components.traffic import Window
from monitoring.calibration import alarms, e_value, threshold
from monitoring.permutations import p_value
from monitoring.quality import Quality, reciprocal_rank
from monitoring.reference import bundle_reference, of_own_bundle
from monitoring.report import WindowReport, append_history, judge_window, read_history

Draw = Callable[..., Window]
DAILY = Monitoring(windows_a_day=1, false_alarms_per_month=3, permutations=499, min_requests=50, slices=["modality"])
FALLEN = Quality("mean reciprocal rank", 0.8, 0.6, 0.15, 0.25, 400)
KEPT = Quality("mean reciprocal rank", 0.8, 0.8, -0.01, 0.01, 400)


def judged(reference: Window, window: Window, settings: Monitoring = DAILY, **other: Any) -> WindowReport:
    return judge_window(reference, window, settings, since=0.0, until=86_400.0, **other)


def test_like_windows_are_ok_and_a_shift_is_an_alarm_that_says_where_and_what(draw: Draw) -> None:
    reference = draw(500, 0)
    assert judged(reference, draw(400, 1)).verdict == "ok"
    window = draw(400, 2)
    images = window.columns["modality"] == "image"
    vectors = window.vectors.copy()
    vectors[images, -1] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = ["the direction that it moved in", "another one", "a third", "a fourth"]
    concepts = (names, np.eye(16, dtype=np.float32)[[15, 0, 1, 2]])
    report = judged(reference, replace(window, vectors=vectors), concepts=concepts)
    assert (report.verdict, report.raised, report.stands, report.harm) == ("alarm", True, True, False)
    certain = {(one.slice, one.test) for one in report.findings if one.adjusted <= 0.05}
    assert ("modality image", "mean_shift") in certain
    assert not any(name == "modality text" for name, _ in certain)
    shift = next(one for one in report.findings if (one.slice, one.test) == ("modality image", "mean_shift"))
    moved = vectors[images].mean(axis=0) - reference.vectors[reference.columns["modality"] == "image"].mean(axis=0)
    both = np.concatenate([vectors[images], reference.vectors[reference.columns["modality"] == "image"]])
    assert shift.effect == pytest.approx(np.linalg.norm(moved) / np.sqrt(both.var(axis=0).sum()), rel=1e-4)
    ids = window.columns["request_id"][images]
    assert all(one.request_id in ids and one.concepts[0] == names[0] for one in report.moved)
    assert "all, neighbour_distance" in report.skipped


def test_alarm_and_harm_are_apart(draw: Draw) -> None:
    reference, same, shifted = draw(500, 0), draw(400, 1), draw(400, 2, shift=1.5)
    verdicts = {
        (name, quality): judged(reference, window, quality=quality)
        for name, window in (("same", same), ("shifted", shifted))
        for quality in (None, KEPT, FALLEN)
    }
    assert {key: report.verdict for key, report in verdicts.items()} == {
        ("same", None): "ok", ("same", KEPT): "ok", ("same", FALLEN): "alarm",
        ("shifted", None): "alarm", ("shifted", KEPT): "note", ("shifted", FALLEN): "alarm",
    }  # fmt: skip
    assert {key[1]: report.harm for key, report in verdicts.items()} == {None: False, KEPT: False, FALLEN: True}
    assert not verdicts["same", FALLEN].stands
    assert verdicts["shifted", KEPT].stands


def test_an_alarm_stands_until_a_window_looks_like_the_reference_again(draw: Draw) -> None:
    reference, before, seen = draw(500, 0), None, []
    for seed, shift in enumerate([0, 1.5, 1.5, 0, 0]):
        before = judged(reference, draw(300, 10 + seed, shift=shift), before=before)
        seen.append((before.raised, before.stands))
    assert seen == [(False, False), (True, True), (True, True), (False, False), (False, False)]


def test_too_few_requests_are_not_judged_and_clear_nothing(draw: Draw) -> None:
    reference = draw(500, 0)
    alarm = judged(reference, draw(300, 1, shift=1.5))
    few = judged(reference, draw(20, 2), before=alarm)
    assert (few.findings, few.raised, few.stands, few.verdict) == ([], False, True, "alarm")
    assert judged(reference, draw(20, 2)).verdict == "too few"


def test_a_reference_of_another_dimension_is_refused(draw: Draw) -> None:
    with pytest.raises(DataInvalid, match="have 8 numbers, the reference's 16"):
        judged(draw(200, 0), draw(200, 1, dimension=8))


def test_the_rate_of_windows_below_the_level_is_that_level(draw: Draw) -> None:
    """All tests together, on the whole: with 19 permutations a level of 0.1 is met exactly."""
    settings = DAILY.model_copy(update={"permutations": 19, "slices": []})
    below = sum(judged(draw(150, 2 * seed), draw(100, 2 * seed + 1), settings).p <= 0.1 for seed in range(120))
    low, high = binom.interval(0.999, 120, 0.1)
    assert low <= below <= high


def test_slices_are_adjusted_for(draw: Draw) -> None:
    settings = DAILY.model_copy(update={"permutations": 19, "slices": ["modality", "instruction"], "min_requests": 30})
    below = sum(judged(draw(150, 2 * seed), draw(150, 2 * seed + 1), settings).p <= 0.25 for seed in range(40))
    assert below <= binom.ppf(0.9995, 40, 0.25)


def test_an_e_value_has_a_mean_of_one() -> None:
    p = (np.arange(1, 10_000_001)) / 10_000_001
    assert 0.9 < float((0.2 * p ** (0.2 - 1)).mean()) <= 1
    assert e_value(0.01, 0.5) == pytest.approx(0.5 * 0.01**-0.5)


@pytest.mark.parametrize(("promised", "windows_a_day"), [(1.0, 24), (4.0, 24), (2.0, 4)])
def test_false_alarms_a_month_are_at_most_those_promised(promised: float, windows_a_day: int) -> None:
    limit = threshold(promised, windows_a_day)
    assert limit == windows_a_day * 30 / promised
    months, noise = 200, np.random.default_rng(0)
    p = noise.integers(1, 1001, months * 30 * windows_a_day) / 1000
    raised = sum(alarms(p, limit, 0.2))
    assert raised <= poisson.ppf(0.9995, promised * months)
    assert raised > 0, "a detector that never raises an alarm keeps every promise"
    smaller = p * 0.5  # what is no p-value must break the promise
    assert sum(alarms(smaller, limit, 0.2)) > poisson.ppf(0.9995, promised * months) or promised < 2


def test_a_shift_that_persists_is_found_within_a_few_windows() -> None:
    raised = alarms([0.5] * 10 + [0.001] * 5, threshold(1, 24), 0.2)
    assert not any(raised[:10])
    assert any(raised[10:13])


def test_a_history_is_what_was_appended_and_a_cut_line_is_left_out(tmp_path: Path, draw: Draw) -> None:
    report = judged(draw(200, 0), draw(200, 1), quality=FALLEN)
    path = tmp_path / "monitoring" / "history.jsonl"
    assert read_history(path) == []
    append_history(path, [report, report])
    assert read_history(path) == [report, report]
    with path.open("a") as file:
        file.write(path.read_text()[:100])
    assert read_history(path) == [report, report]
    append_history(path, [report])
    assert read_history(path) == [report, report, report], "what was cut off does not spoil the next line"
    path.write_text("{}\n")
    with pytest.raises(DataInvalid, match="line 1: is no report"):
        read_history(path)


def test_reciprocal_ranks_and_the_interval_of_their_drop() -> None:
    noise = np.random.default_rng(0)
    found = reciprocal_rank([1, 2, 0, 4], [1, 1])
    assert found
    assert (found.reference, found.window) == ((1 + 0.5 + 0 + 0.25) / 4, 1.0)
    assert reciprocal_rank([1, 2], [1]) is None
    covered = 0
    for _ in range(200):
        quality = reciprocal_rank(noise.integers(1, 4, 200), noise.integers(1, 4, 100))
        assert quality
        covered += quality.drop_low <= 0 <= quality.drop_high
    assert 180 <= covered <= 199


def test_the_reference_of_a_bundle(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(UsageError, match="no such file"):
        bundle_reference(path)
    vectors = np.eye(3, dtype=np.float32)
    np.savez(path, vectors=vectors, norms=np.ones(3, np.float32), top1=np.array([0.5, 1, 0], np.float32),
             modalities=np.array(["text", "image", "text"]), tasks=np.array(["a", "a", "b"]))  # fmt: skip
    window = bundle_reference(path)
    assert window.columns["top_score"].tolist() == [0.5, 1, 0]
    assert window.columns["modality"].tolist() == ["text", "image", "text"]
    assert "norm" not in window.columns
    np.savez(path, vectors=vectors)
    with pytest.raises(DataInvalid, match="is no reference window"):
        bundle_reference(path)


def test_a_version_that_the_registry_has_is_compared_with_its_own_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest bundle may be of a version that was refused; traffic of others is compared with it all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for place, score in (("newest", 0.1), ("registered/1", 0.2), ("registered/2", 0.3)):
        (tmp_path / place).mkdir(parents=True)
        np.savez(tmp_path / place / "reference.npz", vectors=np.eye(2, dtype=np.float32),
                 top1=np.array([score, score]), modalities=np.array(["text", "text"]))  # fmt: skip
    newest = Path("newest/reference.npz")
    assert of_own_bundle(newest)("1").reference.columns["top_score"][0] == 0.1, "there is no registry"
    (tmp_path / ".embedline").mkdir()
    (tmp_path / ".embedline" / "mlflow.db").touch()
    monkeypatch.setattr(tracking, "prepare", lambda root: root)
    monkeypatch.setattr(models, "versions", lambda _: {"1": {}, "2": {}})
    monkeypatch.setattr(models, "fetched", lambda _, version: tmp_path / "registered" / version)
    known = of_own_bundle(newest)
    found = {version: known(version).reference.columns["top_score"][0] for version in ("1", "2", "3", "")}
    assert found == {"1": 0.2, "2": 0.3, "3": 0.1, "": 0.1}


def test_a_version_whose_bundle_was_pruned_is_compared_with_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is another one than the workspace's own database, named in params.yaml alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("params.yaml").write_text(f"storage: {{tracking_uri: 'sqlite:///{tmp_path}/elsewhere.db'}}\n")
    tracked = tracking.prepare(Path())
    tracked.client.create_registered_model(tracked.model)
    for place, score in (("newest", 0.1), (".embedline/versions/2", 0.3)):
        Path(place).mkdir(parents=True)
        np.savez(Path(place, "reference.npz"), vectors=np.eye(2, dtype=np.float32), top1=np.array([score, score]),
                 modalities=np.array(["text", "text"]))  # fmt: skip
    digest = folder_sha256(Path(".embedline/versions/2"))
    for _ in range(2):
        tracked.client.create_model_version(tracked.model, "no source", tags={"bundle_sha256": digest})
    models.mark_pruned(tracked, "1", "2026-11-30")
    with pytest.raises(UsageError, match="was pruned"):
        models.fetched(tracked, "1")
    known = of_own_bundle(Path("newest/reference.npz"))
    assert {version: known(version).reference.columns["top_score"][0] for version in ("1", "2")} == {"1": 0.1, "2": 0.3}


def test_p_values_of_a_null_are_uniform() -> None:
    noise = np.random.default_rng(0)
    found = np.array([p_value(noise.standard_normal(20)) for _ in range(2000)])
    assert np.histogram(found, 20, (0.025, 1.025))[0].min() > 60
