"""Our embedder inside mteb: its mock tasks run, its scores are those of our own metrics, and nothing there fools it."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, DatasetInfo, SplitDict
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from mteb.abstasks import AbsTask
from mteb.mocks import mock_tasks
from mteb.mocks.mock_tasks.pair_classification import MockImageTextPairClassificationTask
from mteb.mocks.mock_tasks.reranking import MockAggregatedTask
from mteb.mocks.mock_tasks.retrieval import MockAny2AnyRetrievalT2ITask
from mteb.mocks.mock_tasks.sts import MockVisualSTSTask
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from PIL import Image
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.corpus import Item
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError, UsageError
from components.evaluation.metrics import values
from components.evaluation.mteb_model import MtebModel, evaluate_with_mteb, run_task
from components.evaluation.scoring import Cosine, ranks
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder

QUERIES, DOCUMENTS = 12, 30
SAME_METRICS = {
    "ndcg_linear@5": "ndcg_at_5",
    "recall@5": "recall_at_5",
    "precision@5": "precision_at_5",
    "mrr@5": "mrr_at_5",
}
TEXT_TASKS = (
    "MockClassificationTask",
    "LegacyMockClusteringFastTask",
    "MockPairClassificationTask",
    "MockRerankingTask",
    "MockRetrievalTask",
    "MockSTSTask",
    "MockTextZeroShotClassificationTask",
)


class PixelEmbedder(HashEmbedder):
    """Vectors drawn from the text and the pixels of an item; `change` may then spoil them."""

    def __init__(self, change: Callable[[Vectors], Vectors] = np.asarray) -> None:
        super().__init__()
        self.change = change

    def encode(self, items: Sequence[Item]) -> Vectors:
        return self.change(super().encode(items))

    def vector(self, item: Item) -> Vectors:
        pixels = item.image.tobytes() if isinstance(item.image, Image.Image) else b""
        return super().vector(Item(f"{item.text} {hashlib.sha256(pixels).hexdigest()}", instruction=item.instruction))


class Unchecked(MtebModel):
    """What mteb itself makes of a model: its vectors go there as they are."""

    def encode(self, inputs: Any, **_: Any) -> Vectors:
        return self.embedder.encode([Item()] * len(inputs.dataset))


class Searching(MockAny2AnyRetrievalT2ITask):
    """Graded retrieval among texts, images or both; see `searching`."""

    queries_side: Dataset
    documents_side: Dataset
    relevant: dict[str, dict[str, int]]

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        split = {"queries": self.queries_side, "corpus": self.documents_side, "relevant_docs": self.relevant}
        self.dataset = {"default": {"test": {**split, "top_ranked": None}}}
        self.data_loaded = True


def searching(category: str, last: bool = False) -> Searching:
    """Returns a task such as `it2i`, from texts with images to images; `last` is the only answer's place by name."""

    answers = {
        f"q{query:02}": {f"d{DOCUMENTS - 1}": 1}
        if last
        else {f"d{document:02}": 1 + (query + document) % 3 for document in range(query, query + 3)}
        for query in range(QUERIES)
    }

    class Task(Searching):
        metadata = Searching.metadata.model_copy(
            update={"category": category, "name": f"Searching-{category}", "prompt": {"query": "Find it."}}
        )
        queries_side = side(category.split("2")[0], "q", "query", QUERIES)
        documents_side = side(category.split("2")[1], "d", "document", DOCUMENTS)
        relevant = answers

    return Task()


class Captions(MockImageTextPairClassificationTask):
    """Images with two captions each, of which the first is right, as in ARO and SugarCrepe."""

    texts_column_names = ("right", "wrong")

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        columns = {
            "image": [image(number) for number in range(20)],
            "right": [f"a cat on {number} trees" for number in range(20)],
            "wrong": [f"{number} trees on a cat" for number in range(20)],
        }
        self.dataset = {"default": DatasetDict({"test": Dataset.from_dict(columns)})}
        self.data_loaded = True


def side(kinds: str, letter: str, word: str, count: int) -> Dataset:
    columns: dict[str, list[Any]] = {"id": [f"{letter}{number:02}" for number in range(count)]}
    if "t" in kinds:
        columns["text"] = [f"{word} {number}" for number in range(count)]
    if "i" in kinds:
        columns["image"] = [image(number, letter) for number in range(count)]
    return Dataset.from_dict(columns)


def image(number: int, letter: str = "d") -> Image.Image:
    return Image.new("RGB", (4, 4), (number * 8, ord(letter), 0))


def model_of(embedder: Embedder, fingerprint: str = "a") -> MtebModel:
    return MtebModel(embedder, embedder.name, fingerprint, lambda *_: None)


def unchecked(embedder: Embedder) -> Unchecked:
    return Unchecked(embedder, embedder.name, "a", lambda *_: None)


def scores_of(model: Any, task: AbsTask) -> dict[str, Any]:
    results = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return dict(results.task_results[0].scores["test"][0])


@pytest.mark.slow
def test_all_mock_tasks_of_texts_and_images_run() -> None:
    results = mteb.mock_run(model_of(PixelEmbedder()))
    ran = [name for name, result in results.items() if result is not None]
    assert results.all_passed, results.to_markdown()
    assert len(ran) > 40
    assert {"MockAny2AnyRetrievalI2T", "MockZeroShotClassification", "MockVisualSTS", "MockVisionCentricQA"} <= set(ran)


@pytest.mark.parametrize("category", ["t2t", "t2i", "i2t", "i2i", "it2i", "t2it"])
def test_retrieval_scores_are_those_of_our_metrics(category: str) -> None:
    task = searching(category)
    embedder = PixelEmbedder()
    sides = [
        Cosine(*(np.stack([embedder.vector(item) for item in items]) for items in (queries, documents)))
        for queries, documents in [
            (items_of(task.queries_side, "Find it."), items_of(task.documents_side, None)),
            (items_of(task.queries_side, "Find it."), items_of(task.documents_side, None)[::-1]),
        ]
    ]
    relevant = np.array([(int(query[1:]), int(found[1:])) for query in task.relevant for found in task.relevant[query]])
    grades = np.array([grade for found in task.relevant.values() for grade in found.values()], float)
    ours, shuffled = (ranks(cosine, np.arange(QUERIES), np.arange(DOCUMENTS), relevant, grades) for cosine in sides)
    theirs = scores_of(model_of(embedder), task)
    for name, named in SAME_METRICS.items():
        assert theirs[named] == pytest.approx(values(ours, name).mean(), abs=1e-5)
    assert theirs["ndcg_at_5"] != pytest.approx(values(shuffled, "ndcg_linear@5").mean(), abs=1e-3)


def items_of(dataset: Dataset, instruction: str | None) -> list[Item]:
    return [Item(row.get("text"), row.get("image"), instruction=instruction) for row in dataset]


@pytest.fixture(scope="module")
def sentences(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has a prompt for each side."""
    directory = tmp_path_factory.mktemp("models") / "sentences"
    model = SentenceTransformer(str(text_model), device="cpu", prompts={"query": "find ", "document": "the "})
    model.save(str(directory), create_model_card=False)
    return directory


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_scores_of_a_sentence_transformer_are_mtebs_own(name: str, sentences: Path) -> None:
    make = getattr(mock_tasks, name)
    ours, theirs = (
        {metric: value for metric, value in scores_of(model, make()).items() if isinstance(value, float)}
        for model in (
            model_of(SentenceTransformerEmbedder(sentences)),
            SentenceTransformer(str(sentences), device="cpu"),
        )
    )
    assert ours == pytest.approx(theirs, abs=1e-5, nan_ok=True)


def test_each_side_has_the_models_own_prompt(sentences: Path) -> None:
    ours = model_of(SentenceTransformerEmbedder(sentences))
    theirs = SentenceTransformerEncoderWrapper(SentenceTransformer(str(sentences), device="cpu"))
    inputs = DataLoader(Dataset.from_dict({"text": ["a cat", "two red dogs", "a cat"]}), batch_size=2)
    where = {"task_metadata": mock_tasks.MockRetrievalTask.metadata, "hf_split": "test", "hf_subset": "default"}
    answers = []
    for prompt_type in (PromptType.query, PromptType.document, None):
        answers.append(ours.encode(inputs, prompt_type=prompt_type, **where))
        own = np.asarray(theirs.encode(inputs, prompt_type=prompt_type, **where))
        assert answers[-1] == pytest.approx(own / np.linalg.norm(own, axis=1, keepdims=True), abs=1e-5)
    assert np.abs(answers[0] - answers[1]).max() > 1e-2


def test_an_instruction_goes_with_the_query_and_apart_from_its_text() -> None:
    embedder = PixelEmbedder()
    scores_of(model_of(embedder), searching("it2i"))
    assert {item.instruction for item in embedder.encoded if item.text} == {"Find it."}
    assert {item.instruction for item in embedder.encoded if not item.text} == {None}
    embedder = PixelEmbedder()
    scores_of(model_of(embedder), mock_tasks.MockInstructionReranking())
    assert Item("This is a test sentence", instruction="This is a test instruction") in embedder.encoded


def test_identical_items_are_encoded_once() -> None:
    embedder = PixelEmbedder()
    vectors = encoded(embedder, {"image": [image(1), image(2), image(1)]})
    assert len(embedder.encoded) == 2
    assert (vectors[0] == vectors[2]).all()
    assert not (vectors[0] == vectors[1]).any()


def test_an_empty_text_is_encoded_blank() -> None:
    embedder = PixelEmbedder()
    encoded(embedder, {"text": ["", "a"]})
    encoded(embedder, {"text": [""], "image": [image(1)]})
    assert [item.text for item in embedder.encoded] == [" ", "a", ""]


def test_an_item_without_content_or_with_a_broken_image_is_named() -> None:
    with pytest.raises(EmbedlineError, match=r"hash: MockAny2AnyRetrievalT2I \(test, default\), input 1: has neither"):
        encoded(PixelEmbedder(), {"image": [image(1), None]})
    with pytest.raises(EmbedlineError, match="input 0: the image is 8000x8000"):
        encoded(PixelEmbedder(), {"image": [Image.new("1", (8000, 8000))]})


def encoded(embedder: Embedder, batch: dict[str, list[Any]]) -> Vectors:
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]

    def collate(some: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {name: [row[name] for row in some] for name in batch}

    inputs: Any = DataLoader(rows, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    metadata = MockAny2AnyRetrievalT2ITask.metadata
    return model_of(embedder).encode(inputs, task_metadata=metadata, hf_split="test", hf_subset="default")


@pytest.mark.parametrize("make", [lambda: Captions(), lambda: searching("t2i", last=True)], ids=["captions", "search"])
def test_a_constant_encoder_is_refused_where_mteb_gives_it_all(make: Callable[[], AbsTask]) -> None:
    metric = "text_acc" if isinstance(make(), Captions) else "hit_rate_at_1"
    assert scores_of(unchecked(ConstantEmbedder()), make())[metric] == 1
    assert scores_of(model_of(PixelEmbedder()), make())[metric] < 1
    with pytest.raises(EmbedlineError, match=r"different items have 1 different vectors"):
        scores_of(model_of(ConstantEmbedder()), make())


def test_a_nan_encoder_is_refused_where_mteb_gives_it_all() -> None:
    broken = ConstantEmbedder(float("nan"))
    assert scores_of(unchecked(broken), Captions())["text_acc"] == 1
    with pytest.raises(EmbedlineError, match="input 0: the vector is not finite"):
        scores_of(model_of(broken), Captions())


def test_captions_that_only_their_order_tells_apart_are_refused_to_a_bag_of_words() -> None:
    class BagOfWords(PixelEmbedder):
        def vector(self, item: Item) -> Vectors:
            return super().vector(Item(" ".join(sorted((item.text or "").split())), item.image))

    with pytest.raises(EmbedlineError, match="40 different items have 20 different vectors"):
        scores_of(model_of(BagOfWords()), Captions())


def test_one_bad_vector_among_many_is_named() -> None:
    def spoil(vectors: Vectors) -> Vectors:
        vectors[-1] = 0
        return vectors

    with pytest.raises(EmbedlineError, match=r"hash: Searching-t2i \(test, default\), query 11: the vector is zero"):
        scores_of(model_of(PixelEmbedder(spoil)), searching("t2i"))


def test_another_shape_than_announced_is_refused() -> None:
    with pytest.raises(EmbedlineError, match=r"12 items gave vectors of shape \(12, 15\)"):
        scores_of(model_of(PixelEmbedder(lambda vectors: vectors[:, 1:])), searching("t2i"))


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedlineError, match="MockVisualSTS: the score is not a number"):
        run_task(model_of(PixelEmbedder()), MockVisualSTSTask(), tmp_path)  # all its pairs are of equal images
    assert not list(tmp_path.iterdir())


def test_a_finished_task_is_not_run_again_unless_the_model_is_another(tmp_path: Path) -> None:
    first, again, other = PixelEmbedder(), PixelEmbedder(), PixelEmbedder()
    result = run_task(model_of(first), searching("t2i"), tmp_path)
    assert run_task(model_of(again), searching("t2i"), tmp_path).get_score() == result.get_score()
    run_task(model_of(other, "b"), searching("t2i"), tmp_path)
    run_task(MtebModel(PixelEmbedder(), "named", "a", lambda *_: None), searching("t2i"), tmp_path)
    assert (len(first.encoded), len(again.encoded), len(other.encoded)) == (42, 0, 42)
    assert len(list(tmp_path.glob("Searching-t2i-*/results/local__hash/*/Searching-t2i.json"))) == 2


def test_a_killed_task_leaves_nothing(tmp_path: Path) -> None:
    def kill(_: Vectors) -> Vectors:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(model_of(PixelEmbedder(kill)), searching("t2i"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_of_tasks_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    model = model_of(PixelEmbedder())
    together = run_task(model, MockAggregatedTask(), tmp_path)
    parts = [run_task(model, part, tmp_path).get_score(splits=["test"]) for part in MockAggregatedTask().tasks]
    assert together.get_score() == pytest.approx(np.mean(parts))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_model_tells_no_more_than_is_known() -> None:
    meta = model_of(PixelEmbedder(), "f1").mteb_model_meta
    assert (meta.name, meta.revision, meta.embed_dim, meta.modalities) == ("local/hash", "f1", 16, ["text", "image"])
    assert (meta.open_weights, meta.license, meta.n_parameters, meta.training_datasets) == (None, None, None, None)


def test_unknown_and_unfit_tasks_are_named(tmp_path: Path) -> None:
    def evaluate(name: str) -> None:
        evaluate_with_mteb(PixelEmbedder(), "hash", "a", [name], tmp_path, lambda *_: None)

    with pytest.raises(UsageError, match=r"mteb:STSBenchmrk: 'STSBenchmrk' not found. Did you mean: 'STSBenchmark'"):
        evaluate("STSBenchmrk")
    with pytest.raises(UsageError, match="mteb:MSRVTTT2V is of video"):
        evaluate("MSRVTTT2V")


def test_without_mteb_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UsageError, match="mteb is not installed") as caught:
        evaluate_with_mteb(PixelEmbedder(), "hash", "a", ["STSBenchmark"], tmp_path, lambda *_: None)
    assert "embedline[mteb]" in caught.value.remedy


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Puts a data set where `datasets` keeps what it has downloaded; no connection can be made meanwhile."""

    def keep(task_name: str, configuration: str, split: str, rows: list[dict[str, Any]], revision: str = "") -> None:
        source = mteb.get_task(task_name).metadata.dataset
        organisation, name = source["path"].split("/")
        folder = tmp_path / "kept" / f"{organisation}___{camelcase_to_snakecase(name)}" / configuration / "0.0.0"
        folder = folder / (revision or source["revision"])
        folder.mkdir(parents=True)
        features = Dataset.from_list(rows).features
        file = folder / f"{camelcase_to_snakecase(name)}-{split}.arrow"
        with ArrowWriter(path=str(file), features=features) as writer:
            for row in rows:
                writer.write(row)
            count, size = writer.finalize()
        described = {"name": split, "num_examples": count, "num_bytes": size, "dataset_name": name}
        info = DatasetInfo(features=features, config_name=configuration, dataset_name=name, version="0.0.0")
        info.splits = SplitDict.from_split_dict({split: described})
        info.write_to_directory(str(folder))

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")
    monkeypatch.setattr(socket.socket, "connect", connect)
    yield keep


PAIRS = [
    {"sentence1": f"a {number}", "sentence2": f"the {number % 3}", "score": float(number % 5)} for number in range(12)
]


def evaluate_sts(tmp_path: Path, reported: list[tuple[str, int, int]]) -> float:
    scores = evaluate_with_mteb(
        PixelEmbedder(), "hash", "a", ["STSBenchmark"], tmp_path / "scores", lambda *done: reported.append(done)
    )
    return scores["STSBenchmark"]


def test_a_task_of_mteb_runs_offline_from_what_is_kept(kept: Callable[..., None], tmp_path: Path) -> None:
    kept("STSBenchmark", "default", "test", PAIRS)
    reported: list[tuple[str, int, int]] = []
    score = evaluate_sts(tmp_path, reported)
    first, second = (
        np.stack([PixelEmbedder().vector(Item(row[name])) for row in PAIRS]) for name in ("sentence1", "sentence2")
    )
    expected = spearmanr((first * second).sum(axis=1), [row["score"] for row in PAIRS]).statistic
    assert score == pytest.approx(expected, abs=1e-6)
    assert reported[-1] == ("STSBenchmark", 12, 12)


def test_a_task_without_its_data_set_says_what_to_download(kept: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(EmbedlineError, match="data set mteb/stsbenchmark-sts, revision b0fddb56ed") as caught:
        evaluate_sts(tmp_path, [])
    assert "HF_HUB_OFFLINE=0" in caught.value.remedy


def test_a_kept_data_set_of_another_revision_is_refused(kept: Callable[..., None], tmp_path: Path) -> None:
    kept("STSBenchmark", "default", "test", PAIRS, "c" * 40)
    with pytest.raises(EmbedlineError, match=f"holds revision {'c' * 40}, and the task is of b0fddb56ed"):
        evaluate_sts(tmp_path, [])


def test_candidates_that_mteb_does_not_find_offline_are_refused(kept: Callable[..., None], tmp_path: Path) -> None:
    name = "SciDocsRR"
    kept(name, "corpus", "test", [{"_id": "d1", "title": "", "text": "x"}, {"_id": "d2", "title": "", "text": "y"}])
    kept(name, "queries", "test", [{"_id": "q1", "text": "z"}])
    kept(name, "default", "test", [{"query-id": "q1", "corpus-id": "d1", "score": 1}])
    evaluate_with_mteb(PixelEmbedder(), "hash", "a", [name], tmp_path / "whole corpus", lambda *_: None)
    kept(name, "top_ranked", "test", [{"query-id": "q1", "corpus-ids": ["d1"]}])
    with pytest.raises(EmbedlineError, match="SciDocsRR: mteb does not find top_ranked of mteb/SciDocsRR offline"):
        evaluate_with_mteb(PixelEmbedder(), "hash", "a", [name], tmp_path / "scores", lambda *_: None)
