from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import mine_hard_negatives
from tokenizers import Tokenizer, models, pre_tokenizers

from components.corpus import Item
from components.errors import UsageError
from components.training import negatives as module
from components.training.config import Negatives
from components.training.examples import IMAGE, INSTRUCTION, NONE, TEXT, Examples
from components.training.negatives import (
    Mined,
    approximate,
    exact,
    mine,
    mine_examples,
    nearest,
    read_negatives,
    write_negatives,
)

SETTINGS = Negatives(model="any", reranker=None, per_query=2, depth=50, margin=0.95, other_modalities=True)
WANTED, OTHER = 2, 1


def unit(vectors: object) -> NDArray[np.float32]:
    array = np.array(vectors, np.float32)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def at(*cosines: float) -> NDArray[np.float32]:
    """Returns vectors that have these inner products with the query (1, 0)."""
    return np.array([(cosine, (1 - cosine**2) ** 0.5) for cosine in cosines], np.float32)


def mine_one(pool: NDArray[np.float32], kinds: Sequence[int], known: set[int], settings: Negatives = SETTINGS) -> Mined:
    """Mines for the query (1, 0), whose positive is the pool's first item."""

    def excluded(rows: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(candidates, [0, *known])

    return mine(at(1.0), np.array([0]), pool, np.array(kinds), excluded, settings)


def test_the_nearest_that_are_no_answers_are_the_negatives() -> None:
    found = mine_one(at(0.8, 0.7, 0.3, 0.75, 0.6), [WANTED] * 5, known={3})
    assert found.positions.tolist() == [[1, 4]]
    np.testing.assert_allclose(found.scores, [[0.7, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(found.positive_scores, [0.8], rtol=1e-6)


def test_a_planted_false_negative_is_left_out_by_the_margin_alone() -> None:
    """An unlabelled answer scores 0.79, more than 0.95 of the positive's 0.8; what scores 0.75 is a negative."""
    pool = at(0.8, 0.79, 0.75, 0.99)
    assert mine_one(pool, [WANTED] * 4, set()).positions.tolist() == [[2, NONE]]
    unfiltered = mine_one(pool, [WANTED] * 4, set(), replace_margin(1.0))
    assert unfiltered.positions.tolist() == [[1, 2]]


def replace_margin(margin: float) -> Negatives:
    return SETTINGS.model_copy(update={"margin": margin})


def test_of_a_positive_below_zero_the_negatives_score_less() -> None:
    """Times 0.95 alone would admit what scores -0.39, more than the positive's -0.4."""
    assert mine_one(at(-0.4, -0.39, -0.41, -0.5), [WANTED] * 4, set()).positions.tolist() == [[3, NONE]]


def test_of_another_modality_only_what_ranks_above_the_positive_is_a_negative() -> None:
    pool = at(0.6, 0.5, 0.4, 0.9, 0.7, 0.59)
    kinds = [WANTED, WANTED, WANTED, OTHER, OTHER, OTHER]
    three = SETTINGS.model_copy(update={"per_query": 3})
    assert mine_one(pool, kinds, set(), three).positions.tolist() == [[1, 3, 2]], "in turn"
    assert mine_one(pool, kinds, {1, 2}, three).positions.tolist() == [[3, 4, NONE]], "one sort fills up for the other"
    assert mine_one(pool, kinds, {3, 4}, three).positions.tolist() == [[1, 2, NONE]], "0.59 is below the positive"
    alike = mine_one(pool, [WANTED] * 6, set(), three)
    assert alike.positions.tolist() == [[1, 2, NONE]], "the same score in the wanted modality is a false negative"


def test_a_crowd_of_another_modality_does_not_hide_the_wanted_one() -> None:
    """All of another modality may be nearer, as captions are to a caption; the depth counts each apart."""
    pool = at(0.3, 0.2, *np.linspace(0.8, 0.9, 60))
    found = mine_one(pool, [WANTED, WANTED, *[OTHER] * 60], set())
    assert found.positions[0, 0] == 1 and found.positions[0, 1] == 61


def test_where_there_are_too_few_the_rest_is_marked() -> None:
    found = mine_one(at(0.8), [WANTED], set())
    assert found.positions.tolist() == [[NONE, NONE]] and np.isnan(found.scores).all()
    shallow = mine_one(at(0.8, 0.7, 0.6), [WANTED] * 3, set(), SETTINGS.model_copy(update={"depth": 2}))
    assert shallow.positions.tolist() == [[1, NONE]]


def test_blocks_find_what_a_full_sort_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    queries, pool = unit(random.normal(size=(70, 8))), unit(random.normal(size=(300, 8)))
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 7 * 300)
    positions, scores = exact(queries, pool, 20)
    order = np.argsort(-(queries @ pool.T), axis=1)[:, :20]
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ pool.T, order, 1), atol=1e-6)


def test_the_approximate_search_finds_nearly_all_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(100, 16))
    pool = unit(centres[random.integers(0, 100, 6000)] + 0.5 * random.normal(size=(6000, 16)))
    queries = unit(pool[:200] + 0.1 * random.normal(size=(200, 16)))
    wanted, scores = exact(queries, pool, 20)

    def recall() -> float:
        found, found_scores = nearest(queries, pool, 20)
        same = found[:, :1] == wanted[:, :1]
        np.testing.assert_allclose(found_scores[:, :1][same], scores[:, :1][same], atol=1e-5)
        return float(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, wanted, strict=True)]))

    assert recall() == 1
    monkeypatch.setattr(module, "EXACT", 5999)
    assert recall() > 0.99
    monkeypatch.setattr(module, "PROBES", 6)
    assert 0.95 < recall() < 1, "approximate now"
    np.testing.assert_array_equal(approximate(queries, pool, 20)[0], approximate(queries, pool, 20)[0])
    monkeypatch.setattr(module, "PROBES", 1)
    assert recall() < 0.95, "fewer cells find less"


def test_what_the_approximate_search_does_not_find_is_no_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBES", 1)
    monkeypatch.setattr(module, "EXACT", 10)
    random = np.random.default_rng(0)
    pool = unit(random.normal(size=(2000, 8)))
    settings = SETTINGS.model_copy(update={"per_query": 2000, "depth": 2000, "margin": 1.0})
    found = mine(pool[:1], np.array([0]), pool, np.zeros(2000, int), lambda rows, candidates: candidates == 0, settings)
    there = found.positions[0] != NONE
    assert 0 < there.sum() < 1000 and 1999 not in found.positions[0][~there]
    np.testing.assert_allclose(found.scores[0][there], pool[found.positions[0][there]] @ pool[0], atol=1e-6)
    assert np.isnan(found.scores[0][~there]).all()


def test_the_negatives_are_those_of_sentence_transformers() -> None:
    """Of one modality, one positive a query and no other pairs, both do the same."""
    words = [f"w{number}" for number in range(60)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    weights[30:] = weights[:30] + 0.8 * weights[30:]
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)])
    pairs = Dataset.from_dict({"query": words[:30], "answer": words[30:]})
    theirs = mine_hard_negatives(
        pairs,
        model,
        range_max=4,
        relative_margin=0.6,
        num_negatives=2,
        sampling_strategy="top",
        output_format="n-tuple",
        verbose=False,
    )
    examples = Examples(words, [], {"a": parts(text=np.arange(30))}, {"a": parts(text=np.arange(30, 60))})

    class Model:
        name, dimension = "static", 16

        def encode(self, items: Sequence[Item]) -> NDArray[np.float32]:
            return unit(model.encode([item.text for item in items]))

    settings = SETTINGS.model_copy(update={"depth": 5, "margin": 0.4})
    ours = mine_examples(Model(), examples, settings)["a"]
    full = (ours.positions[:, :, TEXT] != NONE).all(1)
    assert 10 < len(theirs) == full.sum() < 30
    for row, place in zip(theirs, np.flatnonzero(full), strict=True):
        assert row["query"] == words[place]
        assert [row["negative_1"], row["negative_2"]] == [words[text] for text in ours.positions[place, :, TEXT]]


def parts(text: object = NONE, image: object = NONE, instruction: object = NONE) -> NDArray[np.int32]:
    columns = np.broadcast_arrays(*(np.array(part, np.int32) for part in (text, image, instruction)))
    return np.stack(columns, -1).reshape(-1, 3)


@dataclass
class Concepts:
    """A model that sees of a text or image which of four concepts it shows; the modality counts a little."""

    concepts: dict[str, int]
    name: str = "concepts"
    dimension: int = 6
    encoded: int = 0

    def encode(self, items: Sequence[Item]) -> NDArray[np.float32]:
        self.encoded += len(items)
        vectors = np.zeros((len(items), 6))
        for vector, item in zip(vectors, items, strict=True):
            for part, dimension in ((item.text, 4), (item.image, 5)):
                if part is not None:
                    vector[self.concepts[str(part)]] = 1
                    vector[dimension] = 0.5
            vector[:4] += 0.1
        return unit(vectors)


TEXTS = ["cat", "Katze", "dog", "tree", "house", "Find the picture.", "Name the picture."]
IMAGES = [Path(f"data/images/{name}.png") for name in ("cat", "cat2", "dog", "animals/tree", "house")]
CONCEPTS = dict(zip(TEXTS, (0, 0, 1, 2, 3, 0, 0), strict=True)) | dict(
    zip(map(str, IMAGES), (0, 0, 1, 2, 3), strict=True)
)


@pytest.fixture
def examples() -> Examples:
    """Names and translations to images, images to names; a second image of the cat is in one pair only."""
    numbers = np.array([0, 2, 3, 4])
    return Examples(
        TEXTS,
        IMAGES,
        queries={
            "find": parts(text=[0, 2, 3, 4], instruction=5),
            "name": parts(image=[0, 1, 2, 3, 4], instruction=6),
            "translate": parts(text=[1]),
        },
        positives={
            "find": parts(image=numbers),
            "name": parts(text=[0, 0, 2, 3, 4]),
            "translate": parts(image=[0]),
        },
    )


def test_no_negative_of_a_row_is_paired_with_its_query_or_positive_in_any_task(examples: Examples) -> None:
    model = Concepts(CONCEPTS)
    mined = mine_examples(model, examples, SETTINGS.model_copy(update={"per_query": 20, "margin": 1.0}))
    assert model.encoded == 4 + 5 + 1 + 4 + 4, "every different item once"

    def found(task: str, row: int, part: int) -> set[int]:
        return {int(number) for number in mined[task].positions[row, :, part] if number != NONE}

    assert found("find", 0, IMAGE) == {2, 3, 4}, "of the cat, not the image of the pair"
    assert found("find", 1, IMAGE) == {0, 3, 4}
    assert found("name", 1, TEXT) == {2, 3, 4}, "the cat's name belongs to its second image too"
    for task in ("find", "name"):
        for row, (query, positive) in enumerate(zip(examples.queries[task], examples.positives[task], strict=True)):
            negatives = mined[task].positions[row]
            for item in (query, positive):
                assert not (negatives[:, :INSTRUCTION] == item[:INSTRUCTION]).all(1).any()
    assert mined["find"].positions.dtype == np.int32 and mined["find"].positions.shape == (4, 20, 3)


def test_pairs_of_other_rows_and_tasks_say_what_is_no_negative() -> None:
    """Of a query's five candidates one is its positive, one its other positive, one has it as its own positive in
    another task, one is there the answer to its positive, and one is a negative."""
    texts, images = ["cat", "Katze", "kitty", "dog"], [Path(f"{number}.png") for number in range(5)]
    queries = {"find": parts(text=[0, 0, 1, 2, 3]), "name": parts(image=[2]), "alike": parts(image=[0])}
    positives = {"find": parts(image=[0, 1, 2, 3, 4]), "name": parts(text=[0]), "alike": parts(image=[3])}
    model = Concepts(dict.fromkeys([*texts, *map(str, images)], 0))
    examples = Examples(texts, images, queries, positives)
    mined = mine_examples(model, examples, SETTINGS.model_copy(update={"per_query": 5, "depth": 5, "margin": 1.0}))
    assert mined["find"].positions[0, :, IMAGE].tolist() == [4, NONE, NONE, NONE, NONE]


def test_queries_that_say_what_they_want_get_negatives_of_another_modality(examples: Examples) -> None:
    """A model that puts every text by every text finds texts for a text, though an image was asked for; where what is
    of another modality may be a negative at all."""

    class ByModality(Concepts):
        def encode(self, items: Sequence[Item]) -> NDArray[np.float32]:
            vectors = super().encode(items)
            vectors[:, 4:] *= 20
            return unit(vectors)

    def seconds(examples: Examples, other_modalities: bool = True) -> tuple[bool, bool]:
        """Returns whether the second negative of each query is a text, and whether it is an image, as the first is."""
        settings = SETTINGS.model_copy(update={"margin": 1.0, "other_modalities": other_modalities})
        positions = mine_examples(ByModality(CONCEPTS), examples, settings)["find"].positions
        assert (positions[:, 0, IMAGE] != NONE).all()
        return bool((positions[:, 1, TEXT] != NONE).all()), bool((positions[:, 1, IMAGE] != NONE).all())

    assert seconds(examples) == (True, False)
    assert seconds(examples, other_modalities=False) == (False, True)
    uninstructed = replace(examples, queries=examples.queries | {"find": parts(text=[0, 2, 3, 4])})
    assert seconds(uninstructed) == seconds(uninstructed, other_modalities=False) == (False, True)


def test_the_stored_negatives_are_read_by_a_person_and_survive_another_order(
    examples: Examples, tmp_path: Path
) -> None:
    mined = mine_examples(Concepts(CONCEPTS), examples, SETTINGS)
    write_negatives(mined, examples, tmp_path)
    row = pq.read_table(tmp_path / "find.parquet").to_pylist()[2]
    assert row["query"] == {"text": "tree", "image": None, "instruction": "Find the picture."}
    assert row["positive"] == {"text": None, "image": "animals/tree.png", "instruction": None}
    assert row["negatives"][0]["image"] in {"cat.png", "dog.png", "house.png"}
    assert row["positive_score"] > row["negatives"][0]["score"] > 0
    assert str(tmp_path) not in str(row) and "data" not in str(row)
    assert pq.read_table(tmp_path / "translate.parquet").to_pylist()[0]["negatives"] == [None, None]

    for task, found in read_negatives(tmp_path, examples, 2).items():
        np.testing.assert_array_equal(found.positions, mined[task].positions)
        assert found.positions.dtype == np.int32 and found.scores is None

    moved = reordered(examples)
    first = read_negatives(tmp_path, moved, 1)
    for task, found in first.items():
        assert found.positions.shape == (moved.rows(task), 1, 3)
        wanted = [contents(examples, mined[task].positions[row, :1]) for row in range(examples.rows(task))][::-1]
        assert [contents(moved, negatives) for negatives in found.positions] == wanted
    here = read_negatives(tmp_path, examples, 1)["find"]
    assert (first["find"].positions != here.positions).any(), "the numbers are others"


def test_a_rerankers_scores_are_stored_and_read_beside_the_negatives(examples: Examples, tmp_path: Path) -> None:
    mined = {}
    for task, found in mine_examples(Concepts(CONCEPTS), examples, SETTINGS).items():
        scores = np.random.default_rng(0).normal(size=(examples.rows(task), 3)).astype(np.float32)
        scores[:, 1:][(found.positions == NONE).all(2)] = np.nan
        mined[task] = replace(found, reranker_scores=scores)
    assert np.isnan(mined["translate"].reranker_scores).tolist() == [[False, True, True]]
    write_negatives(mined, examples, tmp_path)
    row = pq.read_table(tmp_path / "find.parquet").to_pylist()[2]
    stored = [row["positive_reranker_score"], *(negative["reranker_score"] for negative in row["negatives"])]
    assert stored == mined["find"].reranker_scores[2].tolist()

    for task, found in read_negatives(tmp_path, examples, 2).items():
        np.testing.assert_array_equal(found.scores, mined[task].reranker_scores)
        assert found.scores.dtype == np.float32
    for task, found in read_negatives(tmp_path, reordered(examples), 1).items():
        np.testing.assert_array_equal(found.scores, mined[task].reranker_scores[::-1, :2])

    write_negatives(mine_examples(Concepts(CONCEPTS), examples, SETTINGS), examples, tmp_path)
    row = pq.read_table(tmp_path / "find.parquet").to_pylist()[2]
    assert row["positive_reranker_score"] is None and row["negatives"][0]["reranker_score"] is None


def reordered(examples: Examples) -> Examples:
    """The same data elsewhere, with rows, texts and images the other way round."""

    def turn(positions: NDArray[np.int32]) -> NDArray[np.int32]:
        last = np.array([len(TEXTS), len(IMAGES), len(TEXTS)]) - 1
        return np.where(positions == NONE, NONE, last - positions).astype(np.int32)[::-1]

    images = [Path("/elsewhere") / image for image in IMAGES[::-1]]
    sides = [{task: turn(rows) for task, rows in side.items()} for side in (examples.queries, examples.positives)]
    return Examples(TEXTS[::-1], images, *sides)


def contents(examples: Examples, items: NDArray[np.int32]) -> list[tuple[str | None, str | None]]:
    return [
        (
            None if text == NONE else examples.texts[text],
            None if image == NONE else examples.images[image].name,
        )
        for text, image, _ in items.tolist()
    ]


def test_negatives_that_do_not_fit_the_training_are_refused(examples: Examples, tmp_path: Path) -> None:
    write_negatives(mine_examples(Concepts(CONCEPTS), examples, SETTINGS), examples, tmp_path)
    with pytest.raises(UsageError, match="3 negatives a query are wanted, 2 were mined"):
        read_negatives(tmp_path, examples, 3)
    others = replace(examples, texts=["a lion", *TEXTS[1:]])
    with pytest.raises(UsageError, match=r"find\.parquet: the negatives were mined from other data"):
        read_negatives(tmp_path, others, 2)
    (tmp_path / "name.parquet").unlink()
    with pytest.raises(UsageError, match="there are no negatives of the task name"):
        read_negatives(tmp_path, examples, 2)
