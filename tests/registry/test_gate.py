import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from components.errors import Refused, UsageError
from components.registry import Verdict, compare, infrastructure
from components.registry.config import Promotion
from components.scores import Scores
from tests.registry.conftest import CHECKS, SLOWDOWN
from tests.scores.made_up import scores, with_task, without_task

TASKS = ("names", "groups", "counts", "crops")
MakeScores = Callable[..., Scores]


def test_the_first_model_in_needs_only_its_floors(make_scores: MakeScores, promotion_config: Promotion) -> None:
    verdict = compare(make_scores("a"), None, promotion_config, TASKS)
    assert verdict.passed and verdict.against is None
    assert verdict.table[0] == {"name": "overall", "challenger": 0.5} and len(verdict.table) == 5
    low = compare(make_scores("a", counts=0.05, crops=0.05), None, promotion_config, TASKS)
    assert not low.passed and low.reasons == (
        "overall: 0.2750 is below its floor of 0.3",
        "OOD: 0.0500 is below its floor of 0.2",
    )
    with pytest.raises(Refused, match="below its floor") as refusal:
        low.require()
    assert "champion" not in refusal.value.remedy, "there is none that could stay"
    with pytest.raises(Refused) as refusal:
        compare(make_scores("b", 0.4), make_scores("a"), promotion_config, TASKS).require()
    assert refusal.value.remedy.startswith("The champion stays. ")


@pytest.mark.parametrize("queries", [30, 100, 290, 400])
def test_a_challenger_that_is_worse_by_the_margin_passes_as_rarely_as_the_confidence_says(
    make_scores: MakeScores, promotion_config: Promotion, queries: int
) -> None:
    """Exact: the probability of every number of losses among the queries of one set, summed where the gate passes."""
    champion = make_scores("old", 1.0, only=["crops"], queries=queries)
    passed = 0.0
    for lost in range(8):
        challenger = make_scores("new", 1 - lost / queries, only=["crops"], queries=queries)
        if compare(challenger, champion, promotion_config, ["crops"]).passed:
            passed += stats.binom.pmf(lost, queries, promotion_config.margin)
    assert passed <= 1 - promotion_config.confidence
    assert (passed > 0) == (queries == 400), "fewer than 300 queries cannot show a difference above a hundredth"


def test_a_refusal_says_whether_the_challenger_is_worse_or_the_evidence_too_little(
    make_scores: MakeScores, promotion_config: Promotion
) -> None:
    def reason(share: float, queries: int) -> str:
        champion = make_scores("old", 0.5, queries=queries)
        (found,) = compare(make_scores("new", share, queries=queries), champion, promotion_config, TASKS).reasons
        return found

    assert reason(0.5, 30).startswith(
        "overall: not enough evidence: a difference of +0.0000 over 120 queries, at least -0.0250 and at most +0.0250 "
        "(95% bounds); the margin is 0.01"
    )
    assert reason(0.48, 100).startswith("overall: worse: a difference of -0.0200 over 400 queries, at least -0.03")


@pytest.mark.parametrize(("share", "passes"), [(0.6, True), (0.5, True), (0.47, False), (0.4, False)])
def test_better_and_equal_pass_and_worse_is_refused(
    make_scores: MakeScores, promotion_config: Promotion, share: float, passes: bool
) -> None:
    verdict = compare(make_scores("new", share), make_scores("old", 0.5), promotion_config, TASKS)
    assert verdict.passed is passes, verdict.reasons
    assert verdict.table[0]["difference"] == pytest.approx(share - 0.5)


def test_one_task_that_drops_is_refused_though_the_others_make_up_for_it(
    make_scores: MakeScores, promotion_config: Promotion
) -> None:
    champion = make_scores("old", 0.5)
    verdict = compare(make_scores("new", 0.7, counts=0.4), champion, promotion_config, TASKS)
    assert verdict.table[0]["difference"] > 0.1
    assert len(verdict.reasons) == 1 and verdict.reasons[0].startswith("counts: dropped by 0.1000")
    small = compare(make_scores("new", 0.7, counts=0.46), champion, promotion_config, TASKS)
    assert small.passed, "a drop within the limit is no reason"


def test_a_large_drop_that_may_be_chance_is_no_reason(make_scores: MakeScores, promotion_config: Promotion) -> None:
    """The same drop of 6 points, once on the same few queries and once with many answers changed both ways."""
    champion, challenger = make_scores("old", 0.5), make_scores("new", 0.7)
    values = np.roll(champion.tasks["counts"].values, 95)
    values[np.flatnonzero(values)[:12]] = 0
    challenger = with_values(challenger, "counts", values)
    noisy = compare(challenger, champion, promotion_config, TASKS)
    assert row(noisy, "counts")["difference"] == pytest.approx(-0.06) and noisy.passed, noisy.reasons
    clear = compare(make_scores("new", 0.7, counts=0.44), champion, promotion_config, TASKS)
    assert row(clear, "counts")["difference"] == pytest.approx(-0.06) and not clear.passed


def test_constant_values_are_judged_without_a_warning(make_scores: MakeScores, promotion_config: Promotion) -> None:
    assert compare(make_scores("new", 1.0), make_scores("old", 1.0), promotion_config, TASKS).passed
    assert not compare(make_scores("new", 0.0), make_scores("old", 1.0), promotion_config, TASKS).passed


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: without_task(s, "crops"), "challenger: crops: was not scored"),
        (lambda s: replace(s, tasks=s.tasks | {"extra": s.tasks["crops"]}), "extra: is no evaluation set"),
        (lambda s: replace(s, tasks={}), "no task was scored"),
        (lambda s: replace(s, dataset_digest="data-2"), "the data set differs"),
        (lambda s: replace(s, scorer="2"), "the scorer differs"),
        (lambda s: replace(s, prompts="prompts-2"), "the prompts differ"),
        (lambda s: replace(s, dataset_digest=""), "dataset_digest: String should have at least 1 character"),
        (lambda s: with_task(s, "names", score=math.nan), "names.score: Input should be a finite number"),
        (lambda s: with_task(s, "names", tie_rate=math.nan), "names.tie_rate: Input should be a finite number"),
        (lambda s: with_first(s, math.inf), "names.values.0: Input should be a finite number"),
        (lambda s: with_task(s, "names", score=0.8), "names: the score 0.8 is not the mean of its values"),
        (lambda s: with_task(s, "names", values=s.tasks["names"].values[1:]), "names: 199 values for 200 queries"),
        (lambda s: with_task(s, "names", values=[]), "names: 0 values for 200 queries"),
        (lambda s: with_task(s, "names", values=None), "names.values: Input should be a valid list"),
        (lambda s: with_first(s, 2.0), "names.values.0: Input should be less than or equal to 1"),
        (lambda s: with_task(s, "names", tie_rate=0.2), "names: 20.0% of the queries are ties"),
        (lambda s: with_task(s, "names", candidates=7), "names: candidates differ: 7 and 100"),
        (lambda s: replace(s, aggregates=s.aggregates | {"overall": 0.8}), "aggregate overall: 0.8 is not the mean"),
        (
            lambda s: replace(s, aggregates={name: mean for name, mean in s.aggregates.items() if name != "OOD"}),
            "aggregate OOD: None is not the mean",
        ),
        (
            lambda s: replace(s, model=replace(s.model, fingerprint="")),
            "model.fingerprint: String should have at least 1 character",
        ),
    ],
)
def test_evidence_that_is_missing_or_unsound_refuses(
    make_scores: MakeScores, promotion_config: Promotion, spoil: Callable[[Scores], Scores], reason: str
) -> None:
    challenger = make_scores("new", 0.9)
    assert compare(challenger, make_scores("old"), promotion_config, TASKS).passed
    verdict = compare(spoil(challenger), make_scores("old"), promotion_config, TASKS)
    assert not verdict.passed and any(reason in found for found in verdict.reasons), verdict.reasons
    assert verdict.table == ()


def test_a_champion_without_sound_scores_refuses_too(make_scores: MakeScores, promotion_config: Promotion) -> None:
    champion = without_task(make_scores("old"), "names")
    assert "champion: names: was not scored" in compare(make_scores("new"), champion, promotion_config, TASKS).reasons


def test_a_file_of_several_modalities_must_have_the_mean_of_each(
    make_scores: MakeScores, promotion_config: Promotion
) -> None:
    """Also some sets, such as documents, are neither IND nor OOD: they count overall and in their other groups."""
    mixed = make_scores("new", 0.5, names=0.8)
    mixed = with_task(mixed, "names", modality="visdoc", distribution=None)
    mixed.aggregates["IND"] = 0.5
    (reason_image, reason_visdoc) = compare(mixed, None, promotion_config, TASKS).reasons
    assert "aggregate visdoc: None is not the mean of its tasks, 0.800000" in reason_visdoc
    assert "aggregate image: None is not the mean of its tasks, 0.500000" in reason_image
    mixed.aggregates.update(visdoc=0.8, image=0.5)
    assert compare(mixed, None, promotion_config, TASKS).passed


def test_so_few_samples_that_no_drop_could_be_found_are_named(
    make_scores: MakeScores, promotion_config: Promotion
) -> None:
    few = promotion_config.model_copy(update={"sign_flips": 78})
    with pytest.raises(UsageError, match="78 samples of random signs are too few to show a difference on 4 sets"):
        compare(make_scores("new", 0.4), make_scores("old"), few, TASKS)
    enough = promotion_config.model_copy(update={"sign_flips": 79})
    verdict = compare(make_scores("new", 0.7, counts=0.3), make_scores("old"), enough, TASKS)
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["counts"]


def test_a_verdict_is_the_same_each_time_and_its_digest_covers_it(
    make_scores: MakeScores, promotion_config: Promotion, tmp_path: Path
) -> None:
    first, second = (compare(make_scores("new", 0.6), make_scores("old"), promotion_config, TASKS) for _ in range(2))
    assert first == second and first.digest == second.digest
    assert first.digest != compare(make_scores("new", 0.7), make_scores("old"), promotion_config, TASKS).digest
    assert first.write(tmp_path).name == f"{first.digest}.json"


def test_equal_models_are_rarely_refused_and_worse_ones_nearly_always(
    make_scores: MakeScores, promotion_config: Promotion
) -> None:
    """40 pairs each, every answer drawn anew: equal models are distinguished from ones that are 8 points worse."""
    generator = np.random.default_rng(0)
    config = promotion_config.model_copy(update={"margin": 0.02})

    def passes(share: float) -> int:
        passed = 0
        for _ in range(40):
            champion, challenger = make_scores("old"), make_scores("new")
            for name in TASKS:
                hard = generator.random(200)
                champion = with_values(champion, name, (hard + generator.normal(0, 0.02, 200) < 0.5).astype(float))
                challenger = with_values(
                    challenger, name, (hard + generator.normal(0, 0.02, 200) < share).astype(float)
                )
            passed += compare(challenger, champion, config, TASKS).passed
        return passed

    assert passes(0.5) >= 24 and passes(0.42) == 0


def test_the_infrastructure_blessing_needs_every_check(promotion_config: Promotion) -> None:
    assert infrastructure("a", CHECKS, promotion_config).passed
    for name in CHECKS.keys() - {"network_proof"}:
        missing = {key: value for key, value in CHECKS.items() if key != name}
        assert infrastructure("a", missing, promotion_config).reasons == (f"{name}: was not measured",)
    for name, value in (
        ("parity_cosine", 0.5),
        ("server_cosine", math.nan),
        ("answered_fraction", True),
        ("latency_ms", math.inf),
    ):
        assert len(infrastructure("a", CHECKS | {name: value}, promotion_config).reasons) == 1


@pytest.mark.parametrize(
    ("name", "at_the_limit", "beyond", "reason"),
    [
        ("parity_cosine", 0.99, 0.9899, "parity_cosine: 0.9899 is below 0.99"),
        ("parity_cosine", 1.0, 1.1, "parity_cosine: 1.1 is above 1"),
        ("server_cosine", 0.99, -1.0, "server_cosine: -1.0 is below 0.99"),
        ("answered_fraction", 1.0, 0.98, "answered_fraction: 0.98 is below 1"),
        ("answered_fraction", 1.0, 2.0, "answered_fraction: 2.0 is above 1"),
        ("latency_ms", 100.0, 100.1, "latency_ms: 100.1 is above 100"),
        ("latency_ms", 0.1, -0.1, "latency_ms: -0.1 is below 0"),
        ("size_bytes", 1_000_000, 1_000_001, "size_bytes: 1000001 is above 1000000"),
        ("size_bytes", 1, 0, "size_bytes: 0 is below 1"),
        ("rank_agreement", 0.8, 0.79, "rank_agreement: 0.79 is below 0.8"),
        ("memory_bytes", 1, 0, "memory_bytes: 0 is below 1"),
        ("load_seconds", 0.1, -1.0, "load_seconds: -1.0 is below 0"),
        (
            "network_tries",
            0,
            2,
            "network_tries: the model tried to reach a network 2 times before it had answered "
            "(proof: network namespace)",
        ),
    ],
)
def test_each_measurement_has_limits_that_refuse(
    promotion_config: Promotion, name: str, at_the_limit: float, beyond: float, reason: str
) -> None:
    assert infrastructure("a", CHECKS | {name: at_the_limit}, promotion_config).passed
    (found,) = infrastructure("a", CHECKS | {name: beyond}, promotion_config).reasons
    assert found.startswith(reason)
    (not_a_number,) = infrastructure("a", CHECKS | {name: math.nan}, promotion_config).reasons
    assert not_a_number == f"{name}: nan is no finite number"


@pytest.mark.parametrize("name", ["slowdown_latency", "slowdown_throughput"])
def test_beside_a_champion_only_what_is_surely_too_slow_is_refused(promotion_config: Promotion, name: str) -> None:
    def verdict(changes: Mapping[str, float], config: Promotion = promotion_config) -> Verdict:
        return infrastructure("a", CHECKS | SLOWDOWN | dict(changes), config, "b")

    assert verdict({}).passed and verdict({}).against == "b"
    assert verdict({name: 9.0, f"{name}_lower": 1.5, f"{name}_upper": 20.0}).passed, "it may be as fast as it must"
    slow = {name: 1.7, f"{name}_lower": 1.51, f"{name}_upper": 2.0}
    (reason,) = verdict(slow).reasons
    assert reason == (
        f"{name}: 1.70 times as slow as the champion, at least 1.51 and at most 2.00 (95% bounds); at most 1.5"
    )
    assert verdict(slow, promotion_config.model_copy(update={"max_slowdown": None})).passed
    assert verdict({f"{name}_lower": math.nan}).reasons == (f"{name}_lower: nan is no finite number",)
    alone = infrastructure("a", CHECKS, promotion_config, "b")
    assert len(alone.reasons) == 6 and f"{name}: was not measured" in alone.reasons
    assert infrastructure("a", CHECKS, promotion_config).passed, "the first version has no champion to be beside"


def test_licences_are_refused_by_name_where_some_are_named(promotion_config: Promotion) -> None:
    found = {
        "Apache-2.0": ["version/model.py"],
        "MIT AND OFL-1.1": ["version/text.onnx"],
        "NOASSERTION": ["examples.npy"],
    }
    assert infrastructure("a", CHECKS | {"licences": found}, promotion_config).passed

    def reasons(allowed: list[str], licences: object = found) -> tuple[str, ...]:
        config = promotion_config.model_copy(update={"licences": allowed})
        return infrastructure("a", CHECKS | {"licences": licences}, config).reasons

    assert reasons(["Apache-2.0", "MIT", "OFL-1.1", "NOASSERTION"]) == ()
    assert reasons(["Apache-2.0", "MIT"]) == (
        "licences: MIT AND OFL-1.1, which promotion.licences does not name: version/text.onnx",
        "licences: NOASSERTION, which promotion.licences does not name: examples.npy",
    )
    assert reasons(["Apache-2.0"], None) == reasons(["Apache-2.0"], {}) == ("licences: are not known",)


def with_values(made: Scores, name: str, values: Any) -> Scores:
    """Returns the scores with other values in one set, and the means that follow from them."""
    changed = with_task(made, name, values=list(map(float, values)), score=float(np.mean(values)))
    return replace(changed, aggregates=scores("", changed.tasks).aggregates)


def with_first(made: Scores, value: float) -> Scores:
    return with_task(made, "names", values=[value, *made.tasks["names"].values[1:]])


def row(verdict: Any, name: str) -> dict[str, Any]:
    return next(row for row in verdict.table if row["name"] == name)
