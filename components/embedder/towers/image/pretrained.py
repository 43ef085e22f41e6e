"""A transformers image encoder, by what it pools."""

from __future__ import annotations

from typing import Literal

from transformers import AutoModel, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from components.embedder.config import IMAGE_MEAN, ImageTowerSettings
from components.embedder.pretrained import find_model
from components.embedder.runtime import Colours
from components.errors import UsageError


class Settings(ImageTowerSettings):
    """`model` is a directory, or a name on the hub."""

    kind: Literal["pretrained"]
    model: str

    @property
    def pretrained(self) -> tuple[str, ...]:
        return (self.model,)


def build(settings: Settings) -> tuple[PreTrainedModel, Colours, Colours]:
    """Returns the tower, and the mean and standard deviation of colours that it expects.

    Raises `UsageError` if its directory does not say them, `EmbedlineError` if it is nowhere to be found.
    """
    source = find_model(settings.model)
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError as error:
        raise UsageError(
            f"{source}: has no preprocessor_config.json, so that it is not known which colours it expects",
            "Put the model's file there.",
        ) from error
    mean, std = (tuple(processor.get(name, IMAGE_MEAN)) for name in ("image_mean", "image_std"))
    return AutoModel.from_pretrained(source), mean, std
