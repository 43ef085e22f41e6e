"""The teacher: a pretrained text tower, frozen, and an image tower that learns to meet it.

Locked-text tuning, after Zhai et al., LiT (2022), with the towers' roles exchanged: the text tower knows what words
mean, and the image tower learns where in that space its pictures belong.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from components.config import Teacher
from components.embedder import find_text_model
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, assemble
from components.embedder.runtime import Description
from components.embedder.towers import ResidualImageConfig, ResidualImageModel
from components.training.batch import BatchEncoder, Drawer
from components.training.examples import Examples
from components.training.features import pixels, pooled_texts
from components.training.loop import Group, Report, train
from components.training.losses import symmetric_contrastive

PROJECTION_RATE = 0.05  # the text space is what carries over to new words: its projection moves little


def build_teacher(config: Teacher) -> DualEncoder:
    """Returns the untrained teacher. Raises `EmbedlineError` if its text tower is nowhere to be found."""
    source = find_text_model(config.text_model)
    torch.manual_seed(config.schedule.seed)
    image_tower = ResidualImageModel(ResidualImageConfig(**config.image_tower.model_dump()))
    description = Description(
        dimension=config.dimension,
        image_size=config.image_tower.image_size,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        max_tokens=config.max_tokens,
        instruction_weight=config.instruction_weight,
        matryoshka_dimensions=(config.dimension,),
    )
    text_tower = AutoModel.from_pretrained(source)
    encoder = assemble(text_tower, image_tower, AutoTokenizer.from_pretrained(source), description)
    nn.init.eye_(encoder.model.text_projection.weight)
    encoder.model.text_model.requires_grad_(False)
    return encoder.eval()


def train_teacher(config: Teacher, examples: Examples, workspace: Path, report: Report) -> DualEncoder:
    """Returns the trained teacher. Features and checkpoints go to `workspace`, from which a killed run goes on."""
    encoder = build_teacher(config)
    schedule = config.schedule
    pooled = torch.from_numpy(pooled_texts(encoder, examples.texts, workspace / "texts.npy", schedule.precision))
    pictures = pixels(examples.images, config.image_tower.image_size, workspace / "images.npy")
    batches = BatchEncoder(encoder, pictures, lambda texts: encoder.project_text(pooled[texts]), schedule)

    draw = Drawer(examples, schedule)

    def losses(step: int) -> dict[str, Tensor]:
        batch = draw(step)
        queries, positives = batches.encode(batch, step)
        parts = [
            task.share
            * symmetric_contrastive(
                queries[task.rows], positives[task.rows], batch.equal(task.rows), schedule.temperature
            )
            for task in batch.tasks
        ]
        return {"contrastive": torch.stack(parts).sum()}

    model = encoder.model
    groups = [
        Group([*model.vision_model.parameters(), *model.visual_projection.parameters()]),
        Group(list(model.text_projection.parameters()), PROJECTION_RATE),
    ]
    train(encoder, groups, losses, schedule, workspace / "checkpoint.pt", report)
    return encoder
