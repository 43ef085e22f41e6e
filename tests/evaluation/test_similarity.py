import csv
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import pearsonr, spearmanr

from components.corpus import Item
from components.embedder import Vectors, find_model
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.evaluation.similarity import rated_pairs, regression
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, TableEmbedder

Pairs = list[tuple[str, str, float]]
PAIRS: Pairs = [
    ("A cat sleeps on the sofa.", "A cat is asleep on the couch.", 4.8),
    ("A cat sleeps on the sofa.", "A dog runs across the field.", 0.8),
    ("Two men play chess in a park.", "Two men are playing chess outdoors.", 4.2),
    ("Two men play chess in a park.", "The parliament passed the budget.", 0.0),
    ('"We will win," said the coach.', "The coach said that they would win.", 4.4),
    ('The coach said "no comment', "The coach declined to comment.", 3.9),
    ("Heavy rain flooded the village.", "The village was under water after a storm.", 3.8),
    ("Heavy rain flooded the village.", "It was a sunny day at the beach.", 1.0),
    ("She bought a red car.", "She bought a blue car.", 2.8),
    ("She bought a red car.", "She bought a red car.", 5.0),
    ("Shares of the bank fell by 3 %.", "The bank's stock dropped three percent.", 4.6),
    ("Shares of the bank fell by 3 %.", "He sat on the bank of the river.", 0.4),
    ("A child eats an apple, a pear and a plum.", "A child is eating fruit.", 3.6),
    ("A child eats an apple, a pear and a plum.", "An apple tree stands in the garden.", 1.2),
    ("The train leaves at nine.", "The train departs at 9 o'clock.", 4.9),
    ("The train leaves at nine.", "The train arrives at nine.", 2.4),
    ("Der Zug fährt um neun.", "The train leaves at nine.", 4.7),
    ("He plays the violin.", "He plays football.", 1.4),
    ("He plays the violin.", "A man is playing an instrument.", 3.2),
    ("The moon orbits the earth.", "The moon goes around the earth.", 4.9),
    ("The moon orbits the earth.", "The earth goes around the sun.", 1.9),
    ("Nobody was hurt in the fire.", "The fire left no one injured.", 4.7),
    ("Nobody was hurt in the fire.", "Three people died in the fire.", 1.6),
    ("A woman slices an onion.", "A woman is cutting a vegetable.", 3.5),
]  # fmt: skip
DISTINCT = len({text for first, second, _ in PAIRS for text in (first, second)})


class SharedWordsEmbedder:
    """Counts words, so that the more words two sentences share the nearer they are."""

    name, dimension = "words", 512

    def encode(self, items: Sequence[Item]) -> Vectors:
        vectors = np.zeros((len(items), self.dimension), np.float32)
        for row, item in enumerate(items):
            for word in (item.text or "").lower().strip(".").split():
                vectors[row, sum(map(ord, word)) % self.dimension] += 1
        return vectors


class SpoiledEmbedder(HashEmbedder):
    """Gives one sentence a vector of one value."""

    def __init__(self, text: str, value: float) -> None:
        super().__init__()
        self.text, self.value = text, value

    def vector(self, item: Item) -> Vectors:
        return np.full(self.dimension, self.value, np.float32) if item.text == self.text else super().vector(item)


def write_csv(file: Path, pairs: Pairs) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "score", "sentence1", "sentence2"))
        writer.writerows((number, score, first, second) for number, (first, second, score) in enumerate(pairs))
    return file


def write_tsv(file: Path, pairs: Pairs) -> Path:
    lines = ["sentence1\tsentence2\tscore", *(f"{first}\t{second}\t{score}" for first, second, score in pairs)]
    file.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    return file


def write_sts_b(file: Path, pairs: Pairs) -> Path:
    """The layout of the published sts-test.csv: tabs, no names, no quoting, in some rows two sources more."""
    lines = [
        f"main-captions\tMSRvid\t2012test\t{number:04}\t{score:.3f}\t{first}\t{second}" + "\tone\tother" * (number % 2)
        for number, (first, second, score) in enumerate(pairs)
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def write_glue(file: Path, pairs: Pairs) -> Path:
    lines = ["index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"]
    lines += [
        f"{number}\tnews\theadlines\t2015\t{number:04}\tnone\tnone\t{first}\t{second}\t{score:.3f}"
        for number, (first, second, score) in enumerate(pairs)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def write_jsonl(file: Path, pairs: Pairs) -> Path:
    rows = ({"sentence1": first, "sentence2": second, "score": score} for first, second, score in pairs)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_parquet(file: Path, pairs: Pairs) -> Path:
    first, second, score = zip(*pairs, strict=True)
    pq.write_table(pa.table({"sentence1": first, "sentence2": second, "score": score}), file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "pairs.csv", PAIRS)


def angled(degrees: Sequence[float], gold: Sequence[float], file: Path) -> tuple[TableEmbedder, Path]:
    """Returns an embedder that puts the two sentences of each pair at an angle, and the file of the pairs."""
    vectors: dict[str, Sequence[float]] = {"east": [2, 0]}
    for number, angle in enumerate(np.radians(degrees)):
        vectors[f"at {number}"] = [np.cos(angle), np.sin(angle)]
    pairs = [("east", f"at {number}", score) for number, score in enumerate(gold)]
    return TableEmbedder(vectors), write_csv(file, pairs)


# Known answers and equality


def test_known_answers(tmp_path: Path) -> None:
    degrees, gold = [0, 60, 90, 120, 180, 45, 30, 135], [8.0, 4, 4, 2, 1, 5, 6, 2]
    found = regression(*_with_name(angled(degrees, gold, tmp_path / "pairs.csv")), batch_size=3)
    assert found.cosines == pytest.approx(np.cos(np.radians(degrees)), abs=1e-7)
    # Ranks of the cosines: 8 5 4 3 1 6 7 2; of the scores: 8 4.5 4.5 2.5 1 6 7 2.5. Both halves by hand:
    assert found.spearman == pytest.approx(41 / np.sqrt(42 * 41), abs=1e-12)
    centred = np.cos(np.radians(degrees)) - np.mean(np.cos(np.radians(degrees))), np.array(gold) - np.mean(gold)
    assert found.pearson == pytest.approx(np.mean(centred[0] * centred[1]) / np.std(centred[0]) / np.std(centred[1]))
    assert found.pairs == 8 and found.gold == tuple(gold)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_is_one_and_its_reverse_minus_one(sign: int, tmp_path: Path) -> None:
    degrees = np.linspace(5, 170, 12)
    found = regression(*_with_name(angled(degrees, list(-sign * degrees), tmp_path / "pairs.csv")), batch_size=4)
    assert found.spearman == pytest.approx(sign) and abs(found.pearson) < 1
    assert found.interval == pytest.approx((sign, sign))


def test_it_equals_sentence_transformers(file: Path) -> None:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    from components.backends.sentence_transformer import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder(Path(find_model("sentence-transformers/all-MiniLM-L6-v2")))
    found = regression(embedder, "MiniLM", file, batch_size=16)
    first, second, gold = (list(column) for column in zip(*PAIRS, strict=True))
    theirs = EmbeddingSimilarityEvaluator(first, second, gold, main_similarity="cosine", write_csv=False)(
        embedder.model
    )
    assert found.spearman == pytest.approx(theirs["spearman_cosine"], abs=1e-6)
    assert found.pearson == pytest.approx(theirs["pearson_cosine"], abs=1e-6)
    assert 0 < found.interval[0] < 0.5 < found.spearman < found.interval[1] <= 1
    chance = regression(HashEmbedder(), "hash", file, batch_size=16)
    assert abs(chance.spearman) < 0.5 and chance.interval[0] < 0 < chance.interval[1]


def test_the_interval_is_that_of_drawing_pairs_one_by_one(file: Path) -> None:
    found = regression(SharedWordsEmbedder(), "words", file, batch_size=16)
    generator = np.random.default_rng(1)
    gold, cosines = np.array(found.gold), np.array(found.cosines)
    draws = [generator.integers(len(gold), size=len(gold)) for _ in range(2000)]
    expected = np.quantile([spearmanr(gold[draw], cosines[draw]).statistic for draw in draws], [0.025, 0.975])
    assert found.interval == pytest.approx(expected, abs=0.03)
    assert found.spearman == pytest.approx(spearmanr(gold, cosines).statistic)
    assert found.pearson == pytest.approx(pearsonr(gold, cosines).statistic)


def test_equal_sentences_have_exactly_one(file: Path) -> None:
    found = regression(HashEmbedder(), "hash", file, batch_size=16)
    assert [found.cosines[row] for row, pair in enumerate(PAIRS) if pair[0] == pair[1]] == [1.0]


# Invariance


def test_each_different_sentence_is_encoded_once_without_instruction(file: Path) -> None:
    embedder = HashEmbedder()
    regression(embedder, "hash", file, batch_size=7)
    assert len(embedder.encoded) == DISTINCT < 2 * len(PAIRS)
    assert all(item == Item(item.text) for item in embedder.encoded)


def test_batches_norms_and_scales_do_not_matter(file: Path, tmp_path: Path) -> None:
    found = regression(HashEmbedder(), "hash", file, batch_size=16)
    assert regression(HashEmbedder(), "hash", file, batch_size=1) == found

    class Longer(HashEmbedder):
        def vector(self, item: Item) -> Vectors:
            return super().vector(item) * len(item.text or "")

    assert regression(Longer(), "longer", file, 16).cosines == pytest.approx(found.cosines, abs=1e-6)
    scaled = write_csv(tmp_path / "scaled.csv", [(first, second, score / 5) for first, second, score in PAIRS])
    assert regression(HashEmbedder(), "hash", scaled, 16).spearman == pytest.approx(found.spearman)
    turned = write_csv(tmp_path / "turned.csv", PAIRS[::-1])
    assert regression(HashEmbedder(), "hash", turned, 16).spearman == pytest.approx(found.spearman)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_tsv, "pairs.tsv"),
        (write_tsv, "tabs.csv"),
        (write_sts_b, "sts-test.tsv"),
        (write_sts_b, "sts-test.csv"),
        (write_glue, "dev.tsv"),
        (write_jsonl, "pairs.jsonl"),
        (write_parquet, "pairs.parquet"),
    ],
)
def test_every_format_holds_the_same(
    write: Callable[[Path, Pairs], Path], name: str, file: Path, tmp_path: Path
) -> None:
    assert [(pair.first, pair.second, pair.score) for pair in rated_pairs(write(tmp_path / name, PAIRS))] == PAIRS
    assert regression(HashEmbedder(), "hash", tmp_path / name, 16) == regression(HashEmbedder(), "hash", file, 16)


def test_with_quoting_an_unpaired_quote_would_swallow_rows(tmp_path: Path) -> None:
    """The negative control of the formats above: their sentences have quotes at which a reader could stumble."""
    quoted: Pairs = [
        (f'"{first}' if row % 3 == 0 else first, second, score) for row, (first, second, score) in enumerate(PAIRS)
    ]
    file = write_tsv(tmp_path / "pairs.tsv", quoted)
    assert len(rated_pairs(file)) == len(PAIRS)
    with file.open(encoding="utf-8", newline="") as stream:
        assert len(list(csv.DictReader(stream, delimiter="\t"))) < len(PAIRS)
    unquoted = tmp_path / "unquoted.csv"
    unquoted.write_text('score,sentence1,sentence2\n1,"A cat,A dog\n2,A pig,A hen\n3,"An ox,A cow\n', encoding="utf-8")
    with pytest.raises(DataInvalid, match="cannot be read"):
        rated_pairs(unquoted)


# Refusals


@pytest.mark.parametrize(("value", "defect"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "is zero")])
def test_a_broken_vector_is_refused_by_model_and_row(value: float, defect: str, file: Path) -> None:
    spoiled = SpoiledEmbedder("It was a sunny day at the beach.", value)
    with pytest.raises(EmbedlineError, match=rf"student: .*pairs\.csv: row 7: .*sunny.*{defect}"):
        regression(spoiled, "student", file, 16)


def test_a_constant_encoder_has_no_correlation(file: Path) -> None:
    with pytest.raises(EmbedlineError, match=r"student: .*row 0 and all other pairs have the cosine 1\.000000"):
        regression(ConstantEmbedder(), "student", file, 16)
    with warnings.catch_warnings(action="ignore"):
        assert np.isnan(spearmanr([1, 2, 3], [1.0, 1.0, 1.0]).statistic), "what would have been printed"


def test_an_embedder_of_another_shape_is_refused(file: Path) -> None:
    class Short(HashEmbedder):
        def encode(self, items: Sequence[Item]) -> Vectors:
            return super().encode(items)[:-1]

    with pytest.raises(EmbedlineError, match=r"student: 16 sentences gave vectors of shape \(15, 16\), not \(16, 16\)"):
        regression(Short(), "student", file, 16)


ROW = {"sentence1": "A cat.", "sentence2": "A dog.", "score": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence1": ""}, "row 3: sentence1 has no text"),
        ({"sentence2": " \n"}, "row 3: sentence2 has no text"),
        ({"sentence2": None}, "row 3: sentence2 has no text"),
        ({"sentence1": {"image": "cat.png"}}, "row 3: sentence1 has no text"),
        ({"score": "high"}, "row 3: the score 'high' is no number"),
        ({"score": None}, "row 3: the score None is no number"),
        ({"score": float("nan")}, "row 3: the score nan is no number"),
    ],
)
def test_a_row_without_text_or_score_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [ROW, ROW | {"score": 2}, ROW | {"score": 3}, ROW | change]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataInvalid, match=message):
        regression(HashEmbedder(), "hash", file, 16)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("pairs.csv", "sentence1,sentence2\nA cat.,A dog.\n", DataInvalid, "no column 'score'; it has sentence1"),
        ("pairs.csv", "", DataInvalid, "no column 'sentence1'; it has none"),
        ("pairs.csv", "sentence1,sentence2,score\n", DataInvalid, "holds no pairs"),
        ("pairs.csv", "sentence1,sentence2,score\nA cat, a dog.,A hen.,3\n", DataInvalid, "0: 4 columns instead of 3"),
        ("pairs.tsv", "sentence1\tsentence2\tscore\nA cat.\tA dog.\n", DataInvalid, "row 0: 2 columns instead of 3"),
        ("test.tsv", "index\tgenre\tfile\tyear\tnumber\tsentence1\tsentence2\n", DataInvalid, "no column 'score'"),
        ("sts.tsv", "a\tb\tc\td\tgold\tA cat.\tA dog.\n", DataInvalid, "row 0: the score 'gold' is no number"),
        ("pairs.csv", b"sentence1,sentence2,score\nA caf\xe9.,A dog.,3\n", DataInvalid, "cannot be read"),
        ("pairs.jsonl", '{"sentence1": "A cat."}\n', DataInvalid, "no column 'sentence2'"),
        ("pairs.parquet", "PAR1", DataInvalid, "cannot be read"),
        ("pairs.txt", "A cat.", UsageError, r"end in \.csv"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_of_pairs_is_refused(
    name: str, content: str | bytes, kind: type[EmbedlineError], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(kind, match=message):
        rated_pairs(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        regression(HashEmbedder(), "hash", tmp_path / "pairs.csv", 16)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(first, second, 3.0) for first, second, _ in PAIRS], "all 24 pairs have the same score"),
        (PAIRS[:2], "2 pairs are too few"),
        ([(*pair[:2], float(row == 0)) for row, pair in enumerate(PAIRS)], "their scores too much alike"),
    ],
)
def test_pairs_that_allow_no_correlation_or_interval_are_refused(pairs: Pairs, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=message):
        regression(HashEmbedder(), "hash", write_csv(tmp_path / "pairs.csv", pairs), 16)


def _with_name(made: tuple[TableEmbedder, Path]) -> tuple[TableEmbedder, str, Path]:
    embedder, file = made
    return embedder, "table", file
