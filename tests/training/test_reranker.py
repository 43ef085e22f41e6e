from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import (
    AutoConfig,
    AutoProcessor,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    Qwen2VLForConditionalGeneration,
)

from components.backends.tiny import write_tiny
from components.corpus.layout import write_rows
from components.corpus.rows import TRAIN_SCHEMA
from components.errors import UsageError
from components.training.config import Negatives, Recipe
from components.training.encoder import TowersEncoder
from components.training.examples import NONE, Examples, read_examples
from components.training.mining import mine_negatives
from components.training.negatives import HardNegatives, Mined, read_negatives
from components.training.recipe import PhaseObjective, TrainingData
from components.training.reranker import Reranker, rerank
from components.training.teacher_embeddings import TeacherEmbeddings, different_items

from .conftest import MakeRecipe, untrained

YES, NO = 7, 9
TEXTS = ["red cat", "the red cat", "a blue dog", "find the tree", "happy face"]
FIND = len(TEXTS) - 2


def text_reranker(text_model: Path, directory: Path, labels: int = 1) -> Path:
    """Writes a tiny BERT with random weights that gives so many scores to a pair, as transformers saves it."""
    torch.manual_seed(2)
    config = BertConfig.from_pretrained(text_model, num_labels=labels)
    BertForSequenceClassification(config).save_pretrained(directory)
    BertTokenizer.from_pretrained(text_model).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def reader_of_texts(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_reranker(text_model, tmp_path_factory.mktemp("rerankers") / "texts")


@pytest.fixture(scope="session")
def reader_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2-VL with random weights that is asked for yes or no, as sentence-transformers saves it."""
    folder = tmp_path_factory.mktemp("rerankers")
    write_tiny("qwen2_vl", folder / "model")
    torch.manual_seed(3)
    Qwen2VLForConditionalGeneration(AutoConfig.from_pretrained(folder / "model")).save_pretrained(folder / "model")
    modules = [Transformer(str(folder / "model"), transformer_task="any-to-any"), LogitScore(YES, NO)]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder / "images"))
    return folder / "images"


@pytest.fixture
def pairs(tmp_path: Path) -> Examples:
    """Texts that belong to texts, and texts to images; the second query of each task has an instruction."""
    images = [tmp_path / f"{number}.png" for number in range(3)]
    for file, colour in zip(images, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (16, 16), colour).save(file)
    queries = np.array([(0, NONE, NONE), (2, NONE, FIND)], np.int32)
    texts = np.array([(1, NONE, NONE), (4, NONE, FIND)], np.int32)
    shown = np.array([(NONE, 0, NONE), (4, 1, NONE)], np.int32)
    return Examples(TEXTS, images, {"Alike": queries, "Show": queries}, {"Alike": texts, "Show": shown})


def of_task(examples: Examples, task: str) -> Examples:
    return replace(examples, queries={task: examples.queries[task]}, positives={task: examples.positives[task]})


def planted(*negatives: tuple[int, int, int]) -> Mined:
    """Returns two rows, the first with these negatives, the second with the first of them alone."""
    absent = [(NONE, NONE, NONE)] * (len(negatives) - 1)
    positions = np.array([negatives, [negatives[0], *absent]], np.int32)
    return Mined(positions, np.zeros(positions.shape[:2], np.float32), np.zeros(2, np.float32))


def test_every_pair_has_the_score_that_the_network_gives_it(reader_of_texts: Path, pairs: Examples) -> None:
    examples = of_task(pairs, "Alike")
    found = rerank(Reranker(str(reader_of_texts), examples), {"Alike": planted((2, NONE, NONE), (3, NONE, FIND))})
    network = BertForSequenceClassification.from_pretrained(reader_of_texts).eval()
    tokenizer = BertTokenizer.from_pretrained(reader_of_texts)

    def score(query: str, candidate: str) -> float:
        with torch.inference_mode():
            return float(network(**tokenizer(query, candidate, return_tensors="pt")).logits)

    asked = "find the tree a blue dog"
    expected = [
        [score("red cat", text) for text in ("the red cat", "a blue dog", "find the tree find the tree")],
        [score(asked, "find the tree happy face"), score(asked, "a blue dog"), np.nan],
    ]
    assert len(np.unique(expected)) == 6 and score("red cat", "a blue dog") != score("a blue dog", "red cat")
    np.testing.assert_allclose(found["Alike"].reranker_scores, expected, atol=1e-5)


def test_images_are_read_by_a_reranker_that_takes_them(reader_of_images: Path, pairs: Examples) -> None:
    """Of a chat model, an instruction is the system's message; a text that looks like an image's name is a text."""
    examples = replace(of_task(pairs, "Show"), texts=[str(pairs.images[2]), *TEXTS[1:]])
    found = rerank(Reranker(str(reader_of_images), examples), {"Show": planted((NONE, 2, NONE), (3, 2, NONE))})
    processor = AutoProcessor.from_pretrained(reader_of_images)
    network = Qwen2VLForConditionalGeneration.from_pretrained(reader_of_images).eval()

    def score(system: str | None, *sides: Mapping[str, object]) -> float:
        roles = [("system", {"text": system})] if system else []
        roles += list(zip(("query", "document"), sides, strict=True))
        chat = [
            {"role": role, "content": [{"type": kind, kind: part} for kind, part in side.items()]}
            for role, side in roles
        ]
        text = processor.apply_chat_template(chat, tokenize=False)
        images = [side["image"] for side in sides if "image" in side]
        with torch.inference_mode():
            logits = network(**processor(text=[text], images=images, return_tensors="pt")).logits[0, -1]
        return float(logits[YES] - logits[NO])

    red, green, blue = (Image.open(file) for file in pairs.images)
    name = {"text": str(pairs.images[2])}
    expected = [
        [score(None, name, side) for side in ({"image": red}, {"image": blue}, {"image": blue, "text": TEXTS[3]})],
        [score(TEXTS[FIND], {"text": TEXTS[2]}, side) for side in ({"image": green, "text": TEXTS[4]}, {"image": blue})]
        + [np.nan],
    ]
    assert len(np.unique(expected)) == 6
    np.testing.assert_allclose(found["Show"].reranker_scores, expected, atol=1e-5)


def test_pairs_that_the_reranker_cannot_read_are_refused(reader_of_texts: Path, pairs: Examples) -> None:
    with pytest.raises(
        UsageError, match="texts: reads texts alone, and the task Show pairs a text with an image"
    ) as no:
        Reranker(str(reader_of_texts), pairs)
    assert "negatives.reranker" in no.value.remedy
    reranker = Reranker(str(reader_of_texts), of_task(pairs, "Alike"))
    with pytest.raises(UsageError, match="the task Alike pairs a text with an image with text"):
        rerank(reranker, {"Alike": planted((1, 2, NONE), (2, NONE, NONE))})


@pytest.mark.parametrize("kind", ["no head", "embedder", "three labels", "nothing"])
def test_what_was_not_trained_to_score_pairs_is_refused(
    kind: str, text_model: Path, pairs: Examples, tmp_path: Path
) -> None:
    """Of a model without a scoring head, the library would draw one at random."""
    model = tmp_path / "model"
    if kind == "embedder":
        SentenceTransformer(str(text_model), device="cpu").save(str(model), create_model_card=False)
    elif kind == "three labels":
        text_reranker(text_model, model, labels=3)
    elif kind == "no head":
        model = text_model
    with pytest.raises(UsageError, match="no such directory" if kind == "nothing" else "is no reranker"):
        Reranker(str(model), of_task(pairs, "Alike"))


def test_the_stage_stores_what_the_reranker_says_or_nothing_at_all(
    text_model: Path, reader_of_texts: Path, tmp_path: Path
) -> None:
    model, data, output = tmp_path / "model", tmp_path / "data", tmp_path / "negatives"
    SentenceTransformer(str(text_model), device="cpu").save(str(model), create_model_card=False)
    (data / "images").mkdir(parents=True)
    empty = dict.fromkeys(TRAIN_SCHEMA.names, "")
    names = [("cat", "the cat"), ("dog", "the dog"), ("tree", "the tree"), ("face", "the face")]
    write_rows(
        data / "train" / "Name.parquet", TRAIN_SCHEMA, [empty | {"qry": one, "pos_text": two} for one, two in names]
    )
    settings = Negatives(model=str(model), reranker=None, per_query=2, depth=4, margin=1.0, other_modalities=False)
    mine_negatives(settings, data, output)
    examples = read_examples(data)
    assert read_negatives(output, examples, 2)["Name"].scores is None
    reranked = settings.model_copy(update={"reranker": str(reader_of_texts)})
    mine_negatives(reranked, data, output)
    found = read_negatives(output, examples, 2)["Name"]
    reranker = Reranker(str(reader_of_texts), examples)
    np.testing.assert_allclose(
        found.scores[:, 0], reranker(examples.queries["Name"], examples.positives["Name"]), atol=1e-6
    )
    assert (np.isnan(found.scores[:, 1:]) == (found.positions == NONE).all(2)).all()

    Image.new("RGB", (16, 16)).save(data / "images" / "cat.png")
    write_rows(data / "train" / "Show.parquet", TRAIN_SCHEMA, [empty | {"qry": "cat", "pos_image_path": "cat.png"}])
    with pytest.raises(UsageError, match="Show pairs a text with an image"):
        mine_negatives(reranked, data, tmp_path / "refused")
    assert not list(tmp_path.glob("*refused*"))


STUDENT, TEACHER = 0.2, 0.7
MakeCourse = Callable[[HardNegatives, TeacherEmbeddings | None], PhaseObjective]


@pytest.fixture
def make_objective(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> MakeCourse:
    """Makes a objective of the loss `scores` alone, on ten rows a task with the same negatives."""
    term = {"name": "scores", "student_temperature": STUDENT, "teacher_temperature": TEACHER}
    recipe: Recipe = make_teaching(phases=[{"losses": [term]}], companions=False)

    def make(negatives: HardNegatives, teachers: TeacherEmbeddings | None = None) -> PhaseObjective:
        encoder = TowersEncoder(untrained(recipe).eval(), examples)
        encoder.prepare(recipe.schedule, tmp_path)
        data = TrainingData(examples, dict.fromkeys(examples.tasks, negatives), teachers)
        return PhaseObjective(recipe, recipe.phases[0], recipe.schedule, encoder, data, tmp_path)

    return make


@pytest.fixture
def scored(examples: Examples) -> HardNegatives:
    """Two names as negatives of every row, of every third row one; the scores go with them."""
    numbers = np.arange(10)
    positions = np.full((10, 2, 3), NONE, np.int32)
    positions[:, :, 0] = np.stack([(numbers + 3) % 10, (numbers + 5) % 10], 1)
    positions[::3, 1] = NONE
    scores = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    scores[::3, 2] = np.nan
    return HardNegatives(positions, scores)


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def by_hand(objective: PhaseObjective, teach: Callable[[int, NDArray[np.int64]], NDArray[np.float64]]) -> float:
    """Returns the loss of step 0, row by row; `teach` gives the scores of a row's candidates, by the row's number in
    the batch and by its items, of which the first is the query."""
    batch = objective.draw(0)
    assert batch.negatives is not None
    total = 0.0
    for span in batch.tasks:
        for row in range(span.rows.start, span.rows.stop):
            items = torch.stack([batch.queries[row], batch.positives[row], *batch.negatives[row]])
            items = items[(items != NONE).any(1)]
            query, *candidates = objective.encoder(items, 0).detach().double().numpy()
            student = softmax(np.array(candidates) @ query / STUDENT)
            taught = softmax(teach(row, items.numpy())[: len(candidates)] / TEACHER)
            divergence = (taught * np.log(taught / student)).sum()
            total += span.fraction / (span.rows.stop - span.rows.start) * divergence * STUDENT**2
    return total


def test_a_step_learns_from_the_rerankers_scores(make_objective: MakeCourse, scored: HardNegatives) -> None:
    objective = make_objective(scored, None)
    loss = objective.losses(0)["scores"]
    loss.backward()
    batch = objective.draw(0)
    assert batch.scores is not None and batch.scores.isnan().any(), "a row with fewer negatives is among them"
    expected = by_hand(objective, lambda row, items: batch.scores[row].double().numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-4) and expected > 1e-3
    gradients = [part.grad for part in objective.encoder.module.parameters() if part.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)
    turned = replace(scored, scores=scored.scores[:, [1, 0, 2]])
    assert make_objective(turned, None).losses(0)["scores"].item() != pytest.approx(expected, rel=1e-2)


def test_without_a_reranker_a_step_learns_from_the_teachers_vectors(
    make_objective: MakeCourse, scored: HardNegatives, examples: Examples
) -> None:
    items = different_items(examples)
    vectors = np.random.default_rng(1).normal(size=(len(items), 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    teachers = TeacherEmbeddings(items, [vectors], None)
    unscored = HardNegatives(scored.positions)

    def cosines(row: int, of_row: NDArray[np.int64]) -> NDArray[np.float64]:
        found = [np.flatnonzero((items == item).all(1))[0] for item in of_row]
        query, *candidates = vectors[found].astype(np.float64)
        return np.array(candidates) @ query

    objective = make_objective(unscored, teachers)
    expected = by_hand(objective, cosines)
    assert objective.losses(0)["scores"].item() == pytest.approx(expected, rel=1e-4) and expected > 1e-3
    reranked = make_objective(scored, teachers).losses(0)["scores"].item()
    assert reranked == pytest.approx(make_objective(scored, None).losses(0)["scores"].item(), rel=1e-6)
    assert reranked != pytest.approx(expected, rel=1e-2)
    with pytest.raises(UsageError, match="neither a reranker nor a teacher"):
        make_objective(unscored, None).losses(0)
