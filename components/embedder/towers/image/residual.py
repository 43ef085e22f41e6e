"""A small residual image network (He et al., Deep Residual Learning for Image Recognition, 2015)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from components.embedder.config import IMAGE_MEAN, IMAGE_STD, ImageTowerSettings
from components.embedder.runtime import Colours
from components.sections import Positive, demand


class Settings(ImageTowerSettings):
    """Channels of the network's stages, and how many blocks each stage has."""

    takes_any_size: ClassVar[bool] = True
    kind: Literal["residual"]
    widths: Annotated[list[Positive], Field(min_length=1)]
    depths: list[Positive]

    @model_validator(mode="after")
    def _has_as_many_depths_as_widths(self) -> Self:
        return demand(self, len(self.widths) == len(self.depths), "widths and depths must be of the same length")


class ResidualImageConfig(PretrainedConfig):
    """`widths` and `depths`: channels and blocks of each stage; the first layer makes one place of `patch`² pixels."""

    model_type = "embedline_residual_image"

    def __init__(
        self,
        image_size: int = 64,
        widths: tuple[int, ...] = (64, 128, 256),
        depths: tuple[int, ...] = (1, 1, 1),
        patch: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.widths = list(widths)
        self.depths = list(depths)
        self.patch = patch
        self.hidden_size = self.widths[-1]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., Deep Residual Learning for Image Recognition, 2015)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.relu(self.body(pixels) + self.shortcut(pixels))


class ResidualImageModel(PreTrainedModel):
    """`pixel_values (n, 3, size, size)` to `pooler_output (n, widths[-1])`, the mean over all places."""

    config_class = ResidualImageConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ResidualImageConfig) -> None:
        super().__init__(config)
        width = config.widths[0]
        self.stem = nn.Sequential(nn.Conv2d(3, width, config.patch, config.patch), nn.BatchNorm2d(width), nn.ReLU())
        stages = []
        for number, (wider, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            first = ResidualBlock(width, wider, 2 if number else 1)
            stages.append(nn.Sequential(first, *(ResidualBlock(wider, wider, 1) for _ in range(depth - 1))))
            width = wider
        self.stages = nn.Sequential(*stages)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Keeps torch's own initialisation, which suits convolutions followed by normalisation."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        features = self.stages(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features.mean((2, 3)))


AutoConfig.register(ResidualImageConfig.model_type, ResidualImageConfig, exist_ok=True)
AutoModel.register(ResidualImageConfig, ResidualImageModel, exist_ok=True)


def build(settings: Settings) -> tuple[PreTrainedModel, Colours, Colours]:
    """Returns a new tower, and the mean and standard deviation of colours that it expects."""
    config = ResidualImageConfig(**settings.model_dump(exclude={"kind"}))
    return ResidualImageModel(config), IMAGE_MEAN, IMAGE_STD
