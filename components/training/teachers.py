"""Models that a training learns from, and their vectors of a training set."""

from __future__ import annotations

from pathlib import Path

from components.backends.directory import open_directory
from components.embedder import Embedder, TorchEmbedder
from components.errors import UsageError
from components.files import atomic_directory
from components.training.config import TeacherEmbeddings

BATCH_SIZE = 256


def embed_with_teacher(config: TeacherEmbeddings, teacher: Path, data: Path, output: Path) -> None:
    """Writes the vectors of the training set by the teacher, and by the others that are to teach, to `output`."""
    from components.training.examples import read_examples
    from components.training.teacher_embeddings import write_teacher_embeddings

    with atomic_directory(output) as partial:
        teachers = [open_teacher(str(name)) for name in (teacher, *config.others)]
        write_teacher_embeddings(teachers, read_examples(data), config, partial)


def open_teacher(name: str) -> Embedder:
    """Returns a teacher; a dual encoder of ours computes in bfloat16 where that is fast; it is near enough.

    Raises `UsageError` if it has several vectors for an item.
    """
    embedder = open_directory(name, BATCH_SIZE)
    if not isinstance(embedder, Embedder):
        raise UsageError(f"{name}: has several vectors for an item", "Name teachers that have one for each.")
    return TorchEmbedder(embedder.encoder, BATCH_SIZE, "auto") if isinstance(embedder, TorchEmbedder) else embedder
