"""The mean colours of sixteen places."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from components.embedder.config import IMAGE_MEAN, IMAGE_STD, ImageTowerSettings
from components.embedder.runtime import Colours
from components.sections import Positive


class Settings(ImageTowerSettings):
    kind: Literal["colours"]
    width: Positive


class ColoursConfig(PretrainedConfig):
    model_type = "extension_colours"

    def __init__(self, hidden_size: int = 8, image_size: int = 16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_size, self.image_size = hidden_size, image_size


class ColoursModel(PreTrainedModel):
    config_class = ColoursConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ColoursConfig) -> None:
        super().__init__(config)
        self.places = nn.Conv2d(3, 3, config.image_size // 4, config.image_size // 4)
        self.mix = nn.Linear(48, config.hidden_size)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=self.mix(self.places(pixel_values).flatten(1)))


AutoConfig.register(ColoursConfig.model_type, ColoursConfig, exist_ok=True)
AutoModel.register(ColoursConfig, ColoursModel, exist_ok=True)


def build(settings: Settings) -> tuple[PreTrainedModel, Colours, Colours]:
    return ColoursModel(ColoursConfig(settings.width, settings.image_size)), IMAGE_MEAN, IMAGE_STD
