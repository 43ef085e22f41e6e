"""Dual encoders as a recipe describes them, new, and as students that start from their teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from components.embedder import Embedder, TorchEmbedder
from components.embedder.config import IMAGE_TOWERS, TEXT_TOWERS
from components.embedder.dual_encoder import DualEncoder, assemble
from components.embedder.runtime import Description
from components.training.config import Towers


def build_towers(backbone: Towers, matryoshka_dimensions: list[int], seed: int) -> DualEncoder:
    """Returns an untrained dual encoder. A pretrained text tower's projection is as near to none as it can be, so that
    words mean at first what they meant. Raises `EmbedlineError` if a tower is nowhere to be found."""
    torch.manual_seed(seed)
    text_tower, tokenizer = TEXT_TOWERS.of(backbone.text).build(backbone.text)
    image_tower, mean, std = IMAGE_TOWERS.of(backbone.image).build(backbone.image)
    description = Description(
        dimension=backbone.dimension,
        image_size=backbone.image.image_size,
        image_mean=mean,
        image_std=std,
        max_tokens=backbone.max_tokens,
        instruction_weight=backbone.instruction_weight,
        matryoshka_dimensions=tuple(matryoshka_dimensions or [backbone.dimension]),
    )
    encoder = assemble(text_tower, image_tower, tokenizer, description)
    nn.init.eye_(encoder.model.text_projection.weight)
    return encoder.eval()


def start_from_teacher(encoder: DualEncoder, backbone: Towers, teacher: Embedder, folder: Path) -> None:
    """Gives a student its teacher's image layers of the same shape (Wu et al., TinyCLIP, 2023), and its text tower what
    that tower takes over; `folder` keeps what is computed for it."""
    if start := getattr(TEXT_TOWERS.of(backbone.text), "start", None):
        start(encoder, teacher, folder)
    if isinstance(teacher, TorchEmbedder):
        inherit(encoder.model.vision_model, teacher.encoder.model.vision_model)
        inherit(encoder.model.visual_projection, teacher.encoder.model.visual_projection)


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Copies the weights that have the same name and shape in both; what the student lacks is left out."""
    own = student.state_dict()
    shared = {
        name: value for name, value in teacher.state_dict().items() if name in own and own[name].shape == value.shape
    }
    student.load_state_dict(shared, strict=False)
