"""The stages that train: negatives, teacher, embed_teacher, distill."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.artifact import whole
from components.backends.directory import open_directory
from components.config import Negatives, Recipe, TeacherEmbeddings, Towers
from components.corpus import Manifest
from components.corpus.manifest import folder_sha256
from components.embedder import Embedder, TorchEmbedder, fingerprint
from components.errors import UsedWrongly

if TYPE_CHECKING:
    from components.training.encoder import Encoder
    from components.training.loop import Report
    from components.training.recipe import Material, Scorer

CODE = Path(__file__).parent
BATCH_SIZE = 256


@dataclass(frozen=True)
class Places:
    """Where a training reads and writes; `teacher` and `embeddings` where it has a teacher."""

    data: Path
    negatives: Path
    output: Path
    checkpoints: Path
    teacher: Path | None = None
    embeddings: Path | None = None


def mine_negatives(config: Negatives, data: Path, output: Path) -> None:
    """Writes the hard negatives of every row of the training set to `output`, scored if there is a reranker; none
    without a model."""
    with whole(output) as partial:
        (partial / "settings.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if config.model:
            _mine(config.model, config, data, partial)


def _mine(model: str, config: Negatives, data: Path, output: Path) -> None:
    from components.training.examples import read_examples
    from components.training.negatives import mine_examples, write_negatives
    from components.training.reranker import Reranker, rerank

    examples = read_examples(data)
    # opened before the mining, which takes long, for it may refuse the pairs
    reranker = Reranker(config.reranker, examples) if config.reranker else None
    mined = mine_examples(open_teacher(model), examples, config)
    write_negatives(rerank(reranker, mined) if reranker else mined, examples, output)


def train_model(recipe: Recipe, places: Places, report: Report, scorer: Scorer | None = None) -> None:
    """Writes the trained model to `places.output`. A killed run goes on from its last checkpoint.

    With more than one process, as many are started, and each computes a part of every batch.
    """
    from components.training import processes

    if recipe.processes > 1:
        processes.launch(_train, (recipe, places, scorer), recipe.processes, report)
    else:
        _train(recipe, places, scorer, report)


def embed_with_teacher(config: TeacherEmbeddings, teacher: Path, data: Path, output: Path) -> None:
    """Writes the vectors of the training set by the teacher, and by the others that are to teach, to `output`."""
    from components.training.examples import read_examples
    from components.training.teacher_embeddings import write_teacher_embeddings

    with whole(output) as partial:
        teachers = [open_teacher(str(name)) for name in (teacher, *config.others)]
        write_teacher_embeddings(teachers, read_examples(data), config, partial)


def open_teacher(name: str) -> Embedder:
    """Returns a teacher; a dual encoder of ours computes in bfloat16, which is near enough to learn from.

    Raises `UsedWrongly` if it has several vectors for an item.
    """
    embedder = open_directory(name, BATCH_SIZE)
    if not isinstance(embedder, Embedder):
        raise UsedWrongly(f"{name}: has several vectors for an item", "Name teachers that have one for each.")
    return TorchEmbedder(embedder.encoder, BATCH_SIZE, "bfloat16") if isinstance(embedder, TorchEmbedder) else embedder


def _train(recipe: Recipe, places: Places, scorer: Scorer | None, report: Report) -> None:
    from components.training import processes
    from components.training.recipe import train_by

    parts = [recipe.model_dump_json(), Manifest.read(places.data).digest, fingerprint(places.negatives)]
    parts += [fingerprint(folder) for folder in (places.teacher, places.embeddings) if folder]
    workspace = places.checkpoints / digest(places.output.name, *parts)
    material = _material(recipe, places)
    with processes.first_before_others():
        encoder = _encoder(recipe, places, material, workspace)
    train_by(recipe, encoder, material, workspace, report, scorer)
    processes.wait_for_all()
    if processes.is_first():
        with whole(places.output) as partial:
            encoder.save(partial)
        shutil.rmtree(workspace)


def _material(recipe: Recipe, places: Places) -> Material:
    from components.training.examples import read_examples
    from components.training.recipe import Material
    from components.training.teacher_embeddings import read_teacher_embeddings

    examples = read_examples(places.data)
    negatives = None
    if recipe.negatives_per_query:
        from components.training.negatives import read_negatives

        negatives = read_negatives(places.negatives, examples, recipe.negatives_per_query)
    teachers = read_teacher_embeddings(places.embeddings, examples) if places.embeddings else None
    return Material(examples, negatives, teachers)


def _encoder(recipe: Recipe, places: Places, material: Material, workspace: Path) -> Encoder:
    """Returns what is to be trained; a student starts with what it can take over from its teacher."""
    from components.training.encoder import TowersEncoder
    from components.training.inheritance import inherit, inherit_words
    from components.training.towers import build_towers

    backbone, schedule = recipe.backbone, recipe.schedule
    if not isinstance(backbone, Towers):
        from components.backends.whole_model import load_whole
        from components.training.model_encoder import ModelEncoder

        model = load_whole(backbone.model, backbone.pooling, schedule.seed, workspace / "random")
        return ModelEncoder(model, material.examples, schedule.precision, backbone.gradient_checkpointing)
    encoder = build_towers(backbone, recipe.matryoshka_dimensions, schedule.seed)
    if places.teacher:
        teacher = open_teacher(str(places.teacher))
        inherit_words(encoder, teacher, workspace / "tokens.npy")
        if isinstance(teacher, TorchEmbedder):
            inherit(encoder.model.vision_model, teacher.encoder.model.vision_model)
            inherit(encoder.model.visual_projection, teacher.encoder.model.visual_projection)
    return TowersEncoder(encoder, material.examples, material.teachers.changes if material.teachers else None)


def digest(*parts: str) -> str:
    """Returns the name of the checkpoint folder of a training: a run may only resume what it would repeat itself."""
    code = folder_sha256(CODE, frozenset(file.relative_to(CODE).as_posix() for file in CODE.rglob("*.pyc")))
    return hashlib.sha256(json.dumps([code, *parts]).encode()).hexdigest()[:16]
