"""Lets vision-language models be loaded where torchvision, which only the videos of their processors need, is missing.

`register_stand_ins` registers, with transformers' `AutoVideoProcessor`, a stand-in for each that refuses videos.
"""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import (
    LlavaOnevisionConfig,
    PretrainedConfig,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SmolVLMConfig,
    processing_utils,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils.import_utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from components.errors import UsageError

CLASSES: dict[str, type[PretrainedConfig]] = {
    "Qwen2VLVideoProcessor": Qwen2VLConfig,
    "Qwen3VLVideoProcessor": Qwen3VLConfig,
    "LlavaOnevisionVideoProcessor": LlavaOnevisionConfig,
    "SmolVLMVideoProcessor": SmolVLMConfig,
}
"""The video processors that need torchvision by their names in model directories."""


class NoVideo(VideoProcessorMixin):
    """Keeps the settings of the video processor whose name it bears: saved again, they serve where torchvision is."""

    num_frames = fps = None  # processors ask for these even where there is no video

    def preprocess(self, videos: Any, **_: Any) -> NoReturn:
        raise UsageError("videos need torchvision, which is not installed", "Install it, or leave videos out.")


STAND_INS: dict[str, type[NoVideo]] = {name: type(name, (NoVideo,), {}) for name in CLASSES}


def register_stand_ins() -> None:
    """Lets transformers load processors that name one of `CLASSES`; does nothing where torchvision is installed."""
    if is_torchvision_available():
        return
    # Processors look for the class of their video part here, and transformers then leaves it out.
    setattr(processing_utils.transformers_module, "VideoProcessorMixin", VideoProcessorMixin)  # noqa: B010  (untyped)
    for name, config_class in CLASSES.items():
        AutoVideoProcessor.register(config_class, STAND_INS[name], exist_ok=True)


def video_processor(name: str, **settings: Any) -> VideoProcessorMixin:
    """Returns the stand-in of that name: saved, it is loaded as the video processor itself where torchvision is."""
    register_stand_ins()
    return STAND_INS[name](**settings)
