"""Dual encoders as a recipe describes them: pretrained towers, or new ones."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from components.config import PretrainedText, ResidualImage, Towers
from components.embedder import find_text_model
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, assemble
from components.embedder.runtime import Description
from components.embedder.towers import ResidualImageConfig, ResidualImageModel, WordVectorsConfig, WordVectorsModel


def build_towers(backbone: Towers, matryoshka_dimensions: list[int], seed: int) -> DualEncoder:
    """Returns an untrained dual encoder. A pretrained text tower's projection is as near to none as it can be, so that
    words mean at first what they meant. Raises `EmbedlineError` if a tower is nowhere to be found."""
    torch.manual_seed(seed)
    text_tower, tokenizer = _text_tower(backbone)
    image_tower = _image_tower(backbone)
    description = Description(
        dimension=backbone.dimension,
        image_size=backbone.image.image_size,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        max_tokens=backbone.max_tokens,
        instruction_weight=backbone.instruction_weight,
        matryoshka_dimensions=tuple(matryoshka_dimensions or [backbone.dimension]),
    )
    encoder = assemble(text_tower, image_tower, tokenizer, description)
    nn.init.eye_(encoder.model.text_projection.weight)
    return encoder.eval()


def _text_tower(backbone: Towers) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(backbone.text, PretrainedText):
        source = find_text_model(backbone.text.model)
        return AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(find_text_model(backbone.text.tokenizer))
    return WordVectorsModel(WordVectorsConfig(vocabulary_size(tokenizer), backbone.text.width)), tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many numbers the tokens need; some may be no token's."""
    return 1 + max(tokenizer.get_vocab().values())


def _image_tower(backbone: Towers) -> PreTrainedModel:
    if isinstance(backbone.image, ResidualImage):
        return ResidualImageModel(ResidualImageConfig(**backbone.image.model_dump(exclude={"kind"})))
    return AutoModel.from_pretrained(find_text_model(backbone.image.model))  # type: ignore[no-any-return]
