from pathlib import Path

import pytest

from components.corpus import EvaluationTask, Manifest, Tasks
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.corpus.rows import EVAL_SCHEMA
from components.errors import DataInvalid, EmbedlineError
from components.evaluation import DevScorer
from components.evaluation.sets import read_suite

from .conftest import HashEmbedder, Rows, TableEmbedder, row

WORDS = {"one": (1.0, 0.0), "two": (0.0, 1.0), "three": (-1.0, 0.0), "first": (0.9, 0.1), "second": (0.2, 0.8)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set whose dev split has one set of classification, half right, and one of retrieval, all wrong; its eval
    split has another, of one candidate, where every model is right."""
    candidates = ["one", "two", "three"]
    splits: dict[str, dict[str, Rows]] = {
        "dev": {
            "Half": [row("first", candidates, [0]), row("second", candidates, [2])],
            "Wrong": [row("second", candidates, [0])],
        },
        "eval": {"Right": [row("first", ["one"], [0])]},
    }
    data = tmp_path / "data"
    tasks: dict[str, dict[str, EvaluationTask]] = {}
    for split, sets in splits.items():
        tasks[split] = {}
        for name, rows in sets.items():
            write_rows(data / split / f"{name}.parquet", EVAL_SCHEMA, rows)
            meta_task = "classification" if name == "Half" else "retrieval"
            tasks[split][name] = EvaluationTask(
                rows=len(rows),
                candidates=len(rows[0]["tgt_text"]),
                meta_task=meta_task,  # type: ignore[arg-type]
                distribution="IND",
            )
    Manifest(
        name="small",
        source="table",
        licence=["CC0-1.0"],
        inputs={},
        corpus={},
        seed=0,
        tasks=Tasks(dev=tasks["dev"], eval=tasks["eval"]),
        images=0,
        quarantined=0,
        digest=data_digest(data),
    ).write(data)
    return data


def test_the_score_is_the_mean_over_the_dev_sets(data: Path) -> None:
    """One of two queries and none of one are right: the mean over sets is a quarter, over queries a third."""
    assert DevScorer(data)(TableEmbedder(WORDS)) == pytest.approx(0.25)
    swapped = WORDS | {"second": (-0.8, 0.2)}
    assert DevScorer(data)(TableEmbedder(swapped)) == pytest.approx(0.5)


def test_no_set_of_the_gate_is_seen(data: Path) -> None:
    embedder = HashEmbedder()
    DevScorer(data)(embedder)
    assert {item.text for item in embedder.encoded} == {"first", "second", "one", "two", "three"}
    assert list(read_suite(data, "dev").benchmark.tasks) == ["Half", "Wrong"]
    assert list(read_suite(data).benchmark.tasks) == ["Right"]
    assert read_suite(data, "dev").benchmark.name == "small-dev" and read_suite(data).benchmark.name == "small"
    (data / "eval" / "Right.parquet").unlink()
    assert DevScorer(data)(TableEmbedder(WORDS)) == pytest.approx(0.25)


def test_a_changed_model_is_scored_anew(data: Path) -> None:
    """Vectors of a model in training are never taken for those of the same model some steps before."""
    scorer = DevScorer(data, batch_size=2)
    scores = [scorer(TableEmbedder(WORDS | {"second": second})) for second in ((0.2, 0.8), (-0.8, 0.2))]
    assert scores == pytest.approx([0.25, 0.5])


def test_without_the_dev_sets_there_is_no_score(data: Path) -> None:
    (data / "dev" / "Half.parquet").unlink()
    with pytest.raises(EmbedlineError, match="Half"):
        DevScorer(data)(TableEmbedder(WORDS))


def test_a_broken_dev_set_is_refused(data: Path) -> None:
    (data / "dev" / "Half.parquet").write_bytes(b"broken")
    with pytest.raises(DataInvalid, match="Half"):
        DevScorer(data)(TableEmbedder(WORDS))
