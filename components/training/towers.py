"""Dual encoders as a recipe describes them, untrained."""

from __future__ import annotations

import torch
from torch import nn

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
