"""Models spoilt in known ways, scored on a real data set and judged: each is refused, and by the right reason."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from components.corpus import Item
from components.corpus.columns import TEXT_ONLY, row_values
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError
from components.evaluation import evaluate, read_suite
from components.export.parity import parity
from components.registry import Verdict, compare, infrastructure
from components.registry.config import Metric, Promotion, Slice
from components.scores import Model, Scores
from tests.evaluation.conftest import CONFIG, ConstantEmbedder, HashEmbedder, TableEmbedder, row, write_data
from tests.registry.conftest import CHECKS
from tests.scores.made_up import without_task

WORDS = [f"word {number}" for number in range(60)]
SETS = {"Names": ("retrieval", "IND"), "Kinds": ("classification", "IND"), "New": ("retrieval", "OOD")}
Score = Callable[..., Scores]
Settings = Callable[..., Promotion]


class Knowing(HashEmbedder):
    """Finds the word that is asked for, but for a share of the words of some sets, which it takes for others."""

    def __init__(self, missed: float, only: Sequence[str] = tuple(SETS)) -> None:
        super().__init__()
        self.missed, self.only = missed, only

    def vector(self, item: Item) -> Vectors:
        name, like, word = (item.text or "").partition(" like ")
        if not like:
            return super().vector(replace(item, instruction=None))
        misses = name in self.only and WORDS.index(word) < self.missed * len(WORDS)
        return super().vector(Item(WORDS[WORDS.index(word) - 1] if misses else word))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = {
        name: [
            row(f"{name} like {word}", WORDS, [place], qry_inst="first" if place < 15 else "")
            for place, word in enumerate(WORDS)
        ]
        for name in SETS
    }
    return write_data(tmp_path_factory.mktemp("workspace") / "data", sets, SETS)


@pytest.fixture
def score(data: Path, tmp_path: Path) -> Score:
    def evaluated(name: str, embedder: Embedder) -> Scores:
        suite = read_suite(data)
        return evaluate(embedder, Model(name, name, 16, 7), suite, CONFIG, tmp_path / name, lambda _: None)

    return evaluated


@pytest.fixture
def settings(promotion_config: Promotion) -> Settings:
    def changed(**changes: object) -> Promotion:
        return promotion_config.model_copy(update={"margin": 0.05, "floors": {}, "max_task_drop": 0.5, **changes})

    return changed


def judged(challenger: Scores, champion: Scores | None, config: Promotion) -> Verdict:
    return compare(challenger, champion, config, SETS)


def test_each_word_has_its_numbers_and_only_two_pass(score: Score, settings: Settings) -> None:
    champion = score("champion", Knowing(0.4))
    for missed, word, passes in ((0.1, "better", True), (0.4, "not worse", True), (0.6, "worse", False)):
        verdict = judged(score(f"{missed}", Knowing(missed)), champion, settings())
        assert (verdict.word, verdict.passed) == (word, passes), verdict.reasons
        assert verdict.sentence.startswith(f"{word}: a difference of {0.4 - missed:+.4f} over 180 queries, at least ")
        assert passes or verdict.reasons[0] == f"overall: {verdict.sentence}"
    unsure = judged(score("same", Knowing(0.4)), champion, settings(margin=0.001))
    assert (unsure.word, unsure.passed) == ("not enough evidence", False)
    first = judged(champion, None, settings())
    assert first.passed and (first.word, first.sentence) == (None, "there was no champion to compare with")


def test_an_equal_model_is_kept_out_where_better_is_asked_for(score: Score, settings: Settings) -> None:
    champion, same = score("champion", Knowing(0.4)), score("same", Knowing(0.4))
    kept = judged(same, champion, settings(on_not_worse="keep"))
    (reason,) = kept.reasons
    assert kept.word == "not worse" and reason.startswith("overall: not worse: ") and "must be better" in reason
    assert judged(score("better", Knowing(0.1)), champion, settings(on_not_worse="keep")).passed


@pytest.mark.parametrize(
    ("name", "wanted"), [("OOD", Slice(max_drop=0.02)), ("what is new", Slice(max_drop=0.02, sets=["New"]))]
)
def test_better_on_average_does_not_make_up_for_a_slice(
    score: Score, settings: Settings, name: str, wanted: Slice
) -> None:
    champion = score("champion", Knowing(0.5, ["Names", "Kinds"]))
    mutant = score("mutant", Knowing(0.25, ["New"]))
    assert judged(mutant, champion, settings()).passed, "without a limit for the slice nobody sees it"
    refused = judged(mutant, champion, settings(slices={name: wanted}))
    assert refused.word == "better"
    (reason,) = refused.reasons
    assert reason.startswith(f"slice {name}: dropped by 0.2500 (p 0.0") and reason.endswith("at most 0.02")
    assert refused.table[-1]["name"] == f"slice {name}" and refused.table[-1]["difference"] == -0.25
    assert judged(mutant, champion, settings(slices={"retrieval": Slice(max_drop=0.02)})).passed
    assert judged(mutant, champion, settings(slices={name: wanted.model_copy(update={"max_drop": 0.3})})).passed


def test_better_on_average_does_not_make_up_for_some_rows(score: Score, settings: Settings, data: Path) -> None:
    """The mutant takes the first fifteen words for others; they are their own instruction's rows in each set."""
    champion = score("champion", Knowing(0.5, ["Kinds"]))
    mutant = score("mutant", Knowing(0.25, ["New"]))
    wanted = Slice(max_drop=0.02, where={"qry_inst": "first"}, sets=["New", "Names"])
    rows = {name: row_values(data, name, ["qry_inst", "no such column"]) for name in SETS}
    assert rows["New"] == {"qry_inst": ["first"] * 15 + [""] * 45}
    refused = compare(mutant, champion, settings(slices={"the first": wanted}), SETS, rows)
    (reason,) = refused.reasons
    assert refused.word == "better" and reason.startswith("slice the first: dropped by 0.5000 (p 0.0")
    assert refused.table[-1] | {"name": ""} == {
        "name": "", "challenger": 0.5, "champion": 1.0, "difference": -0.5, "p_worse": refused.table[-1]["p_worse"],
        "lower": refused.table[-1]["lower"], "upper": refused.table[-1]["upper"],
    }  # fmt: skip
    others = wanted.model_copy(update={"where": {"qry_inst": ""}})
    assert compare(mutant, champion, settings(slices={"the others": others}), SETS, rows).passed
    for where in ({"qry_inst": "last"}, {"no such column": "first"}):
        nothing = wanted.model_copy(update={"where": where})
        (reason,) = compare(mutant, champion, settings(slices={"none": nothing}), SETS, rows).reasons
        assert reason.startswith("slice none: no query has ")


def test_rows_of_text_alone_are_kept_apart_from_those_with_images(tmp_path: Path) -> None:
    rows = [
        row("a", WORDS[:2], [0]),
        row("b", WORDS[:2], [0], qry_img_path="1.png"),
        row("c", WORDS[:2], [0], tgt_img_path=["", "2.png"]),
    ]
    data = write_data(tmp_path / "data", {"Mixed": rows})
    assert row_values(data, "Mixed", [TEXT_ONLY]) == {TEXT_ONLY: ["true", "false", "false"]}


def test_another_metric_has_a_floor_and_a_limit_of_its_own(score: Score, settings: Settings) -> None:
    champion, challenger = score("champion", Knowing(0.3)), score("challenger", Knowing(0.2))
    means = {each.model.name: np.mean([task.metrics["ndcg_linear@5"] for task in each.tasks.values()])
             for each in (champion, challenger)}  # fmt: skip
    passed = judged(challenger, champion, settings(metrics={"ndcg_linear@5": Metric(floor=0.5, max_drop=0.0)}))
    assert passed.passed
    assert passed.table[-1] == {
        "name": "ndcg_linear@5",
        **means,
        "difference": pytest.approx(means["challenger"] - means["champion"]),
    }
    (low,) = judged(challenger, champion, settings(metrics={"ndcg_linear@5": Metric(floor=0.99)})).reasons
    assert low == f"ndcg_linear@5: {means['challenger']:.4f} is below its floor of 0.99"
    assert not judged(challenger, None, settings(metrics={"ndcg_linear@5": Metric(floor=0.99)})).passed
    config = settings(metrics={"ndcg_linear@5": Metric(max_drop=0.01)}, margin=0.5)
    (dropped,) = judged(champion, challenger, config).reasons
    assert dropped.startswith("ndcg_linear@5: dropped by 0.1") and dropped.endswith("; at most 0.01")
    (unknown,) = judged(challenger, champion, settings(metrics={"charm": Metric(floor=0.1)})).reasons
    assert unknown == "charm: was not computed on Kinds, Names, New"


def test_a_limit_for_what_was_not_scored_refuses(score: Score, settings: Settings) -> None:
    champion = score("champion", Knowing(0.4))
    for name, wanted, said in (
        ("vqa", Slice(max_drop=0.1), "slice vqa: no set is of this distribution, meta-task or modality"),
        ("mine", Slice(max_drop=0.1, sets=["New", "Nothing"]), "slice mine: Nothing is no evaluation set of the data"),
    ):
        verdict = judged(score("better", Knowing(0.1)), champion, settings(slices={name: wanted}))
        assert not verdict.passed and verdict.reasons[0].startswith(said)


def test_a_constant_model_is_refused_for_its_ties(score: Score, settings: Settings) -> None:
    verdict = judged(score("constant", ConstantEmbedder()), None, settings())
    assert len(verdict.reasons) == 3
    assert all("100.0% of the queries are ties" in reason for reason in verdict.reasons)


def test_a_model_of_nans_gets_no_scores_at_all(score: Score) -> None:
    with pytest.raises(EmbedlineError, match="not finite"):
        score("broken", ConstantEmbedder(np.nan))


def test_an_empty_evaluation_and_a_missing_set_refuse(score: Score, settings: Settings, tmp_path: Path) -> None:
    scores = score("better", Knowing(0.1))
    nothing = replace(scores, tasks={}, aggregates={}, confidence={})
    assert compare(nothing, None, settings(), []).reasons == ("challenger: no task was scored",)
    assert judged(without_task(scores, "New"), None, settings()).reasons[0] == "challenger: New: was not scored"
    with pytest.raises(EmbedlineError, match="names no evaluation set"):
        suite = read_suite(write_data(tmp_path / "empty" / "data", {}))
        evaluate(Knowing(0.1), Model("m", "m", 16, 7), suite, CONFIG, tmp_path / "empty", lambda _: None)


def test_an_int8_model_that_lost_the_order_of_its_nearest_is_refused_though_its_cosines_are_high(
    settings: Settings,
) -> None:
    """Vectors that all point nearly the same way: a little noise leaves each alike, and not its nearest others."""
    generator = np.random.default_rng(0)
    texts = [f"word {number}" for number in range(40)]
    exact = {text: unit(1 + 0.02 * generator.normal(size=16)) for text in texts}
    reference, items = TableEmbedder(exact), [Item(text) for text in texts]
    for noise, reasons in ((1e-5, ()), (0.01, ("rank_agreement: ",))):
        exported = TableEmbedder({text: unit(each + noise * generator.normal(size=16)) for text, each in exact.items()})
        found = parity(reference, exported, items)
        assert found.minimum > 0.99
        checks = CHECKS | {"parity_cosine": found.minimum, "rank_agreement": found.rank_agreement_10}
        verdict = infrastructure("int8", checks, settings())
        assert tuple(reason[:16] for reason in verdict.reasons) == reasons
        assert all(reason.endswith("is below 0.8") for reason in verdict.reasons)


def unit(vector: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple((vector / np.linalg.norm(vector)).tolist())


def test_scores_of_other_data_refuse(score: Score, settings: Settings, tmp_path: Path) -> None:
    champion = score("champion", Knowing(0.4))
    fewer = {name: [row(f"{name} like {word}", WORDS, [place], qry_inst="") for place, word in enumerate(WORDS[:-1])]
             for name in SETS}  # fmt: skip
    suite = read_suite(write_data(tmp_path / "other" / "data", fewer, SETS))
    model = Model("other", "other", 16, 7)
    other = evaluate(Knowing(0.0), model, suite, CONFIG, tmp_path / "other", lambda _: None)
    reasons = judged(other, champion, settings()).reasons
    assert reasons[0].startswith("the data set differs: ") and "score the champion again" in reasons[0]
