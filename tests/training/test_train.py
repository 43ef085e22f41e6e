import functools
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from components.backends.directory import open_directory
from components.corpus import Item, Manifest, Tasks
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.corpus.rows import TRAIN_SCHEMA
from components.embedder import Embedder, fingerprint
from components.embedder.model_card import CARD, Origin
from components.errors import UsageError
from components.training import TrainingPaths, embed_with_teacher, mine_negatives, train_model
from components.training.config import Negatives, Recipe
from components.training.config import TeacherEmbeddings as Settings
from components.training.train import origin
from tests.conftest import edit

from .conftest import MakeRecipe, ignored, stop_at, untrained

NAMES = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("cat", "dog", "face", "tree")]
NO_NEGATIVES = Negatives(model=None, reranker=None, per_query=2, depth=5, margin=1.0, other_modalities=True)


def write(data: Path, rows: list[dict[str, str]], images: int) -> Path:
    empty = dict.fromkeys(TRAIN_SCHEMA.names, "")
    write_rows(data / "train" / "Name.parquet", TRAIN_SCHEMA, [empty | row for row in rows])
    Manifest(
        name="small",
        source="table",
        licence=["CC0-1.0"],
        inputs={},
        corpus={},
        seed=0,
        tasks=Tasks(train={"Name": len(rows)}),
        images=images,
        quarantined=0,
        digest=data_digest(data),
    ).write(data)
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight names with an image each."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(data / "images" / f"{number}.png")
    rows = [{"qry": name, "pos_image_path": f"{number}.png"} for number, name in enumerate(NAMES)]
    return write(data, rows, 8)


@pytest.fixture
def places(data: Path, tmp_path: Path) -> TrainingPaths:
    mine_negatives(NO_NEGATIVES, data, tmp_path / "negatives")
    return TrainingPaths(data, tmp_path / "negatives", tmp_path / "teacher", tmp_path / "checkpoints")


def steps_of(recipe: Recipe, places: TrainingPaths) -> list[int]:
    """Trains; returns the steps that were reported."""
    steps: list[int] = []
    train_model(recipe, places, lambda step, _: steps.append(step))
    return steps


def opened(directory: Path) -> Embedder:
    embedder = open_directory(str(directory), 4)
    assert isinstance(embedder, Embedder)
    return embedder


def test_a_teacher_is_trained_and_teaches_a_student(
    places: TrainingPaths, make_teaching: MakeRecipe, make_learning: MakeRecipe, tmp_path: Path
) -> None:
    train_model(make_teaching(), places, ignored)
    settings = Settings(others=[str(places.output)], views=2, augmentation=1.0, no_flip_tasks=[], seed=0)
    embed_with_teacher(settings, places.output, places.data, tmp_path / "embeddings")
    student = replace(places, output=tmp_path / "student", teacher=places.output, embeddings=tmp_path / "embeddings")
    reported: list[Mapping[str, float]] = []
    train_model(make_learning(), student, lambda _, metrics: reported.append(metrics))
    assert "loss/vectors" in reported[0]
    for directory in (places.output, student.output):
        assert opened(directory).encode([Item(text=NAMES[0])]).shape == (1, 24)
        card = (directory / CARD).read_text()
        assert f"# {directory.name}" in card and "- small" in card and "CC0-1.0" in card
        assert str(tmp_path) not in card, "a directory of this machine says nothing to others"
    assert not list(places.checkpoints.iterdir()), "what a finished training kept to go on is gone"
    assert not list(tmp_path.glob(".*"))


def test_a_stopped_training_goes_on_to_the_same_files(
    places: TrainingPaths, make_teaching: MakeRecipe, tmp_path: Path
) -> None:
    whole = replace(places, checkpoints=tmp_path / "others", output=tmp_path / "whole" / "teacher")
    train_model(make_teaching(), whole, ignored)
    with pytest.raises(KeyboardInterrupt):
        train_model(make_teaching(), places, stop_at(5))
    assert not places.output.exists() and list(places.checkpoints.rglob("checkpoint.pt"))
    assert steps_of(make_teaching(), places) == [5, 6]
    assert fingerprint(places.output) == fingerprint(whole.output)
    train_model(make_teaching(seed=4), places, ignored)
    assert fingerprint(places.output) != fingerprint(whole.output)


@pytest.mark.parametrize("changed", ["recipe", "data", "negatives", "pretrained weights", "code of the embedder"])
def test_another_training_does_not_go_on_where_this_one_stopped(
    changed: str,
    places: TrainingPaths,
    make_teaching: MakeRecipe,
    text_model: Path,
    tmp_path: Path,
    source_copy: Path,
) -> None:
    copy = shutil.copytree(text_model, tmp_path / "pretrained")
    backbone = make_teaching().backbone.model_dump()
    backbone["text"] = {"kind": "pretrained", "model": str(copy)}
    make_teaching = functools.partial(make_teaching, backbone=backbone)
    with pytest.raises(KeyboardInterrupt):
        train_model(make_teaching(), places, stop_at(5))
    if changed == "data":
        write(places.data, [{"qry": name, "pos_image_path": "0.png"} for name in NAMES], 8)
    if changed == "negatives":
        (places.negatives / "Name.parquet").write_bytes(b"others")
    if changed == "pretrained weights":
        weights = load_file(copy / "model.safetensors")
        save_file({name: value + 1 for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    if changed == "code of the embedder":
        edit(source_copy / "components/embedder/runtime.py")
    recipe = make_teaching(learning_rate=0.02) if changed == "recipe" else make_teaching()
    assert steps_of(recipe, places)[0] == 1


def test_code_that_a_training_does_not_run_lets_it_go_on(
    places: TrainingPaths, make_teaching: MakeRecipe, source_copy: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_model(make_teaching(), places, stop_at(5))
    edit(source_copy / "components/backends/endpoint.py")
    edit(source_copy / "components/training/losses/structure.py")
    assert steps_of(make_teaching(), places) == [5, 6]


def test_a_model_is_trained_whole(places: TrainingPaths, make_teaching: MakeRecipe) -> None:
    recipe = Recipe.model_validate(
        make_teaching(augmentation=0.0).model_dump()
        | {"backbone": {"kind": "whole", "model": "random:clip"}, "phases": [{"losses": [{"name": "sigmoid"}]}]}
    )
    with pytest.raises(KeyboardInterrupt):
        train_model(recipe, places, stop_at(5))
    assert steps_of(recipe, places) == [5, 6]
    image = Item(image=places.data / "images" / "0.png")
    assert opened(places.output).encode([image, Item(text=NAMES[0])]).shape == (2, 32)
    assert "32 numbers" in (places.output / CARD).read_text()
    assert not list(places.output.rglob("*.py")), "sentence-transformers' own modules need no code in the directory"


def test_a_card_names_models_of_the_hub_and_languages_that_are_known(
    places: TrainingPaths, make_teaching: MakeRecipe
) -> None:
    manifest = Manifest.read(places.data)
    assert origin(make_teaching(), manifest) == Origin("small", ("CC0-1.0",))
    backbone = make_teaching().backbone.model_dump()
    backbone["text"] = {"kind": "pretrained", "model": "somebody/some-model"}
    manifest = manifest.model_copy(update={"licence": [""], "corpus": {"trained_languages": ["de"]}})
    found = origin(make_teaching(backbone=backbone), manifest)
    assert found == Origin("small", (), ("en", "de"), ("somebody/some-model",))


def test_a_training_set_of_texts_alone_is_learnt_from(
    make_teaching: MakeRecipe, make_learning: MakeRecipe, tmp_path: Path
) -> None:
    rows = [{"qry": name, "pos_text": " ".join(reversed(name.split()))} for name in NAMES]
    places = TrainingPaths(
        write(tmp_path / "data", rows, 0), tmp_path / "negatives", tmp_path / "teacher", tmp_path / "checkpoints"
    )
    mine_negatives(NO_NEGATIVES, places.data, places.negatives)
    losses = [{"name": "contrastive", "temperature": 0.1}]
    train_model(make_teaching(phases=[{"losses": losses}]), places, ignored)
    settings = Settings(others=[], views=2, augmentation=1.0, no_flip_tasks=[], seed=0)
    embed_with_teacher(settings, places.output, places.data, tmp_path / "embeddings")
    student = replace(places, output=tmp_path / "student", teacher=places.output, embeddings=tmp_path / "embeddings")
    train_model(make_learning(), student, ignored)
    assert opened(student.output).encode([Item(text=NAMES[0])]).shape == (1, 24)


def test_negatives_that_were_not_mined_are_asked_for_in_vain(places: TrainingPaths, make_teaching: MakeRecipe) -> None:
    assert not list(places.negatives.glob("*.parquet"))
    with pytest.raises(UsageError, match=r"Name\.parquet: there are no negatives") as raised:
        train_model(make_teaching(negatives_per_query=2), places, ignored)
    assert "negatives.model" in raised.value.remedy and not places.output.exists()


def test_negatives_that_were_mined_take_part(places: TrainingPaths, make_teaching: MakeRecipe, tmp_path: Path) -> None:
    train_model(make_teaching(), places, ignored)
    mine_negatives(NO_NEGATIVES.model_copy(update={"model": str(places.output)}), places.data, places.negatives)

    def first_loss(asked: int) -> float:
        reported: list[float] = []
        recipe = make_teaching(negatives_per_query=asked, augmentation=0.0)
        others = replace(places, output=tmp_path / str(asked))
        train_model(recipe, others, lambda _, metrics: reported.append(metrics["loss"]))
        return reported[0]

    assert first_loss(2) > first_loss(1) > first_loss(0), "more negatives, a larger loss"


@pytest.mark.slow
def test_two_processes_train_what_one_does(places: TrainingPaths, make_teaching: MakeRecipe, tmp_path: Path) -> None:
    """With scores on the way, of which both processes must make the same."""
    vectors = []
    for count in (1, 2):
        recipe = make_teaching(
            processes=count,
            augmentation=0.0,
            phases=[{"lr_multipliers": {"vision": 0.0, "text_model": 0.0}, "losses": [{"name": "sigmoid"}]}],
            early_stopping={"every": 2, "patience": 1, "soup": 2},
        )
        output = tmp_path / f"teacher-{count}"
        train_model(recipe, replace(places, output=output), ignored, sharpness)
        vectors.append(opened(output).encode([Item(text=name) for name in NAMES]))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-4)
    untaught = untrained(make_teaching()).preprocess(NAMES)
    assert not np.allclose(vectors[0], untrained(make_teaching())(untaught)["sentence_embedding"].detach(), atol=1e-3)


def sharpness(embedder: Embedder) -> float:
    return float(np.abs(embedder.encode([Item(text=name) for name in NAMES])).max())


def test_a_scorer_is_asked_where_the_recipe_stops_early(places: TrainingPaths, make_teaching: MakeRecipe) -> None:
    asked: list[int] = []

    def score(embedder: Embedder) -> float:
        asked.append(embedder.dimension)
        return -len(asked)

    recipe = make_teaching(early_stopping={"every": 1, "patience": 2})
    steps: list[int] = []
    train_model(recipe, places, lambda step, _: steps.append(step), score)
    assert asked == [24] * 3 and max(steps) == 3
    train_model(make_teaching(), places, ignored, score)
    assert len(asked) == 3
