"""The student: word vectors and a smaller image tower, distilled from the teacher's vectors and similarities.

The image tower starts as the layers of the teacher's tower that it has too (Wu et al., TinyCLIP, 2023).
The word vectors start as the teacher's vectors of every single token, reduced to their principal components and
weighted by rank, in the manner of Model2Vec (Tulkens and van Dongen, 2024).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.config import Distillation
from components.embedder.dual_encoder import DualEncoder, Precision, assemble, autocast
from components.embedder.towers import ResidualImageConfig, ResidualImageModel, WordVectorsConfig, WordVectorsModel
from components.training.batch import BatchEncoder, Drawer, sum_of_parts
from components.training.examples import Examples
from components.training.features import cached, pixels
from components.training.loop import Group, Report, train
from components.training.losses import similarity_distillation, symmetric_contrastive, vector_distillation
from components.training.teacher_embeddings import TeacherEmbeddings

WORD_RATE = 0.5  # word vectors start near their goal


def build_student(config: Distillation, teacher: DualEncoder, workspace: Path) -> DualEncoder:
    """Returns a student that starts from what it can take over: the words, and layers of the same shape."""
    torch.manual_seed(config.schedule.seed)
    vectors = torch.from_numpy(np.array(_token_vectors(teacher, workspace / "tokens.npy", config.schedule.precision)))
    words, basis = principal_components(vectors * _rank_weights(len(vectors)), config.text_dimension)
    text_tower = WordVectorsModel(WordVectorsConfig(vocab_size=len(words), hidden_size=config.text_dimension))
    image_tower = ResidualImageModel(ResidualImageConfig(**config.image_tower.model_dump()))
    description = replace(
        teacher.description,
        image_size=config.image_tower.image_size,
        matryoshka_dimensions=tuple(config.matryoshka_dimensions),
    )
    student = assemble(text_tower, image_tower, teacher.tokenizer, description)
    with torch.no_grad():
        text_tower.embeddings.weight.copy_(words)
        student.model.text_projection.weight.copy_(basis)
    inherit(image_tower, teacher.model.vision_model)
    inherit(student.model.visual_projection, teacher.model.visual_projection)
    return student.eval()


def train_student(
    config: Distillation,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    workspace: Path,
    report: Report,
) -> DualEncoder:
    """Returns the distilled student. Features and checkpoints go to `workspace`, from which a killed run goes on."""
    student = build_student(config, teacher, workspace)
    schedule = config.schedule
    tokens = student.tokens(examples.texts)
    pictures = pixels(examples.images, config.image_tower.image_size, workspace / "images.npy")

    def embed_texts(texts: Tensor) -> Tensor:
        mask = tokens["attention_mask"][texts]
        longest = int(mask.sum(1).max())
        return student.embed_text(tokens["input_ids"][texts, :longest], mask[:, :longest])

    batches = BatchEncoder(student, pictures, embed_texts, schedule)

    def taught(positions: Tensor) -> Tensor:
        return sum_of_parts(
            positions,
            lambda texts: torch.from_numpy(embeddings.texts[texts.numpy()]),
            lambda images: torch.from_numpy(embeddings.images[images.numpy()]),
            teacher.description,
        )

    draw = Drawer(examples, schedule)

    def losses(step: int) -> dict[str, Tensor]:
        batch = draw(step)
        queries, positives = batches.encode(batch, step)
        taught_queries, taught_positives = taught(batch.queries), taught(batch.positives)
        parts = {
            "vectors": config.vector_weight
            * (vector_distillation(queries, taught_queries) + vector_distillation(positives, taught_positives))
        }
        similarity, label = torch.zeros(()), torch.zeros(())
        for dimension in config.matryoshka_dimensions:
            short_queries = functional.normalize(queries[:, :dimension], dim=-1)
            short_positives = functional.normalize(positives[:, :dimension], dim=-1)
            for task in batch.tasks:
                share, span = task.share / len(config.matryoshka_dimensions), task.rows
                similarity = similarity + share * similarity_distillation(
                    short_queries[span],
                    short_positives[span],
                    taught_queries[span],
                    taught_positives[span],
                    config.similarity_temperature,
                )
                label = label + share * symmetric_contrastive(
                    short_queries[span], short_positives[span], batch.equal(span), schedule.temperature
                )
        return {**parts, "similarity": config.similarity_weight * similarity, "label": config.label_weight * label}

    model = student.model
    groups = [
        Group([*model.vision_model.parameters(), *model.visual_projection.parameters()]),
        Group([*model.text_model.parameters(), *model.text_projection.parameters()], WORD_RATE),
    ]
    train(student, groups, losses, schedule, workspace / "checkpoint.pt", report)
    return student


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Copies the weights that have the same name and shape in both; what the student lacks is left out."""
    own = student.state_dict()
    shared = {
        name: value for name, value in teacher.state_dict().items() if name in own and own[name].shape == value.shape
    }
    student.load_state_dict(shared, strict=False)


def principal_components(vectors: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Returns `words (n, dimension)` and `basis (width, dimension)` so that `words @ basis.T` is near `vectors`."""
    _, axes = torch.linalg.eigh(vectors.T @ vectors)
    basis = axes[:, -dimension:].flip(1).contiguous()
    return vectors @ basis, basis


def _token_vectors(teacher: DualEncoder, path: Path, precision: Precision) -> np.ndarray:
    """Returns the teacher's vector of every token of the vocabulary, `(vocabulary, dimension)`; specials are zero.

    All but the unknown one: a text of nothing but unknown words must not be the zero vector, which has no direction.
    """
    specials = set(teacher.tokenizer.all_special_ids) - {teacher.tokenizer.unk_token_id}
    start_id, end_id = teacher.tokenizer.cls_token_id, teacher.tokenizer.sep_token_id

    def chunk(start: int, stop: int) -> np.ndarray:
        ids = torch.tensor([[start_id, token, end_id] for token in range(start, stop)])
        with torch.inference_mode(), autocast(precision):
            vectors = teacher.embed_text(ids, torch.ones_like(ids)).float().numpy()
        vectors[[token - start for token in range(start, stop) if token in specials]] = 0
        return vectors

    shape = (teacher.model.text_model.config.vocab_size, teacher.description.dimension)
    return cached(path, shape, np.float32, chunk)


def _rank_weights(size: int) -> Tensor:
    """Returns `(size, 1)`: rare tokens, which come late in the vocabulary, say more about a text than common ones."""
    return torch.log1p(torch.arange(size, dtype=torch.float32)).unsqueeze(1)
