"""The stages that train: teacher, embed_teacher, distill."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from components.artifact import whole
from components.config import Distillation, Teacher
from components.corpus import Manifest
from components.corpus.manifest import folder_sha256
from components.embedder import TorchEmbedder, fingerprint
from components.training.loop import Report

CODE = Path(__file__).parent


def fine_tune(config: Teacher, data: Path, output: Path, checkpoints: Path, report: Report) -> None:
    """Writes the fine-tuned teacher to `output`. A killed run goes on from its last checkpoint."""
    from components.embedder.dual_encoder import save
    from components.training.examples import read_examples
    from components.training.teacher import train_teacher

    workspace = checkpoints / digest("teacher", config.model_dump_json(), Manifest.read(data).digest)
    teacher = train_teacher(config, read_examples(data), workspace, report)
    with whole(output) as partial:
        save(teacher, partial)
    shutil.rmtree(workspace)


def embed_with_teacher(config: Teacher, teacher: Path, data: Path, output: Path) -> None:
    """Writes the teacher's vectors of the training set to `output`."""
    from components.training.examples import read_examples
    from components.training.teacher_embeddings import write_teacher_embeddings

    with whole(output) as partial:
        write_teacher_embeddings(
            TorchEmbedder(teacher, precision=config.schedule.precision), read_examples(data), partial
        )


def distil(
    config: Distillation, teacher: Path, embeddings: Path, data: Path, output: Path, checkpoints: Path, report: Report
) -> None:
    """Writes the distilled student to `output`. A killed run goes on from its last checkpoint."""
    from components.embedder.dual_encoder import load, save
    from components.training.examples import read_examples
    from components.training.student import train_student
    from components.training.teacher_embeddings import read_teacher_embeddings

    inputs = (config.model_dump_json(), Manifest.read(data).digest, fingerprint(teacher))
    workspace = checkpoints / digest("student", *inputs)
    student = train_student(
        config, load(teacher), read_teacher_embeddings(embeddings), read_examples(data), workspace, report
    )
    with whole(output) as partial:
        save(student, partial)
    shutil.rmtree(workspace)


def digest(*parts: str) -> str:
    """Returns the name of the checkpoint folder of a training: a run may only resume what it would repeat itself."""
    code = folder_sha256(CODE, frozenset(file.relative_to(CODE).as_posix() for file in CODE.rglob("*.pyc")))
    return hashlib.sha256(json.dumps([code, *parts]).encode()).hexdigest()[:16]
