"""One training, from its inputs to a model directory: resumed where it was stopped, in one or several processes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.backends.directory import find_directory, write_matryoshka_dimensions
from components.corpus import Manifest
from components.embedder import fingerprint
from components.embedder.model_card import CARD, Origin, model_card
from components.files import atomic_directory
from components.source import code_digest
from components.training.config import Recipe, Towers
from components.training.teachers import open_teacher

if TYPE_CHECKING:
    from components.progress import Progress
    from components.training.encoder import Encoder
    from components.training.recipe import Scorer, TrainingData


@dataclass(frozen=True)
class TrainingPaths:
    """Where a training reads and writes; `teacher` and `embeddings` where it has a teacher."""

    data: Path
    negatives: Path
    output: Path
    checkpoints: Path
    teacher: Path | None = None
    embeddings: Path | None = None


def train_model(recipe: Recipe, paths: TrainingPaths, report: Progress, scorer: Scorer | None = None) -> None:
    """Writes the trained model to `paths.output`. A killed run goes on from its last checkpoint.

    With more than one process, as many are started, and each computes a part of every batch.
    """
    from components.training import processes

    if recipe.processes > 1:
        processes.launch(_train, (recipe, paths, scorer), recipe.processes, report)
    else:
        _train(recipe, paths, scorer, report)


def _train(recipe: Recipe, paths: TrainingPaths, scorer: Scorer | None, report: Progress) -> None:
    from components.training import processes
    from components.training.recipe import train_by

    workspace = paths.checkpoints / resume_digest(recipe, paths)
    data, source = _training_data(recipe, paths), origin(recipe, Manifest.read(paths.data))
    with processes.first_before_others():
        encoder = _encoder(recipe, paths, data, workspace)
    train_by(recipe, encoder, data, workspace, report, scorer)
    processes.wait_for_all()
    if processes.is_first():
        with atomic_directory(paths.output) as partial:
            encoder.save(partial)
            sizes = list(recipe.matryoshka_dimensions)
            if not isinstance(recipe.backbone, Towers):  # towers keep them in their own description
                write_matryoshka_dimensions(partial, sizes)
            card = model_card(partial, paths.output.name, encoder.dimension, sizes, source)
            (partial / CARD).write_text(card, encoding="utf-8")
        shutil.rmtree(workspace)


def resume_digest(recipe: Recipe, paths: TrainingPaths) -> str:
    """Returns the name of the checkpoint folder of a training: a run may only resume what it would repeat itself.

    It covers all that checkpoints, pixels and outputs of frozen towers depend on: the recipe, the data, the bytes of
    every model that it starts from or learns from, and the code, that of the losses and of the embedder included.
    """
    code = code_digest(__name__, *sorted({*recipe.modules()}))
    parts = [recipe.model_dump_json(), code, Manifest.read(paths.data).digest]
    folders = [paths.negatives, paths.teacher, paths.embeddings, *pretrained(recipe)]
    parts += [fingerprint(folder) for folder in folders if folder]
    return digest(paths.output.name, *parts)


def digest(*parts: str) -> str:
    """Returns sixteen hexadecimal digits that name the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def pretrained(recipe: Recipe) -> Iterator[Path]:
    """Yields the directory of every model that the recipe starts from; raises as `find_directory` does."""
    yield from map(find_directory, recipe.starting_models)


def origin(recipe: Recipe, manifest: Manifest) -> Origin:
    """Returns what the model's card says of where it comes from; a directory of this machine says nothing to others."""
    trained = manifest.corpus.get("trained_languages")
    return Origin(
        dataset=manifest.name,
        licences=tuple(filter(None, manifest.licence)),
        languages=("en", *trained) if trained else (),
        base_models=tuple(dict.fromkeys(model for model in recipe.starting_models if not Path(model).is_dir())),
    )


def _training_data(recipe: Recipe, paths: TrainingPaths) -> TrainingData:
    from components.training.examples import read_examples
    from components.training.recipe import TrainingData
    from components.training.teacher_embeddings import read_teacher_embeddings

    examples = read_examples(paths.data)
    negatives = None
    if recipe.negatives_per_query:
        from components.training.negatives import read_negatives

        negatives = read_negatives(paths.negatives, examples, recipe.negatives_per_query)
    teachers = read_teacher_embeddings(paths.embeddings, examples) if paths.embeddings else None
    return TrainingData(examples, negatives, teachers)


def _encoder(recipe: Recipe, paths: TrainingPaths, data: TrainingData, workspace: Path) -> Encoder:
    """Returns what is to be trained; a student starts with what it can take over from its teacher."""
    from components.training.encoder import TowersEncoder
    from components.training.student_init import init_student
    from components.training.towers import build_towers

    backbone, schedule = recipe.backbone, recipe.schedule
    if not isinstance(backbone, Towers):
        from components.backends.whole_model import load_whole
        from components.training.model_encoder import ModelEncoder

        model = load_whole(backbone.model, backbone.pooling, schedule.seed, workspace / "random")
        return ModelEncoder(model, data.examples, schedule.precision, backbone.gradient_checkpointing)
    encoder = build_towers(backbone, recipe.matryoshka_dimensions, schedule.seed)
    if paths.teacher:
        init_student(encoder, backbone, open_teacher(str(paths.teacher)), workspace)
    return TowersEncoder(encoder, data.examples, data.teachers.changes if data.teachers else None)
