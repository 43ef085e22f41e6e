"""Dual encoders as a recipe describes them: pretrained towers, or new ones."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from components.config import PretrainedText, ResidualImage, Towers
from components.embedder import find_model
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, assemble
from components.embedder.runtime import Description
from components.embedder.towers import ResidualImageConfig, ResidualImageModel, WordVectorsConfig, WordVectorsModel
from components.errors import UsedWrongly

Colours = tuple[float, float, float]


def build_towers(backbone: Towers, matryoshka_dimensions: list[int], seed: int) -> DualEncoder:
    """Returns an untrained dual encoder. A pretrained text tower's projection is as near to none as it can be, so that
    words mean at first what they meant. Raises `EmbedlineError` if a tower is nowhere to be found."""
    torch.manual_seed(seed)
    text_tower, tokenizer = _text_tower(backbone)
    image_tower, mean, std = _image_tower(backbone)
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


def _text_tower(backbone: Towers) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(backbone.text, PretrainedText):
        source = find_model(backbone.text.model)
        return AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(find_model(backbone.text.tokenizer))
    return WordVectorsModel(WordVectorsConfig(vocabulary_size(tokenizer), backbone.text.width)), tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many numbers the tokens need; some may be no token's."""
    return 1 + max(tokenizer.get_vocab().values())


def _image_tower(backbone: Towers) -> tuple[PreTrainedModel, Colours, Colours]:
    """Returns the tower, and the mean and standard deviation of colours that it expects. Raises `UsedWrongly` if a
    pretrained one does not say."""
    if isinstance(backbone.image, ResidualImage):
        tower = ResidualImageModel(ResidualImageConfig(**backbone.image.model_dump(exclude={"kind"})))
        return tower, IMAGE_MEAN, IMAGE_STD
    source = find_model(backbone.image.model)
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError as error:
        raise UsedWrongly(
            f"{source}: has no preprocessor_config.json, so that it is not known which colours it expects",
            "Put the model's file there.",
        ) from error
    mean, std = (tuple(processor.get(name, IMAGE_MEAN)) for name in ("image_mean", "image_std"))
    return AutoModel.from_pretrained(source), mean, std
