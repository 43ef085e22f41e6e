"""Tiny models with random weights of the architectures that whole models come in, to try a recipe out and to test.

Their tokenizer knows every byte, so that no text is unknown; their chat templates have the architecture's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Model,
    Idefics3Processor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionModel,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLModel,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLModel,
    Qwen3VLProcessor,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
    SmolVLMModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)

from components.backends.without_torchvision import video_processor
from components.errors import UsageError
from components.files import atomic_directory

WIDTH, HEADS, LAYERS = 32, 2, 2
PATCH, SIDE = 8, 16  # pixels
TOKENS = 64
SPREAD, FACTOR = 0.2, 10.0  # of the weights: with the usual 0.02, two small layers make nearly the same of all they see
TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
LANGUAGE: dict[str, Any] = {
    **TOWER,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 2048,
    "initializer_range": SPREAD,
}
START, END, TURN, TURN_END = "<s>", "</s>", "<|im_start|>", "<|im_end|>"

Made = tuple[PreTrainedModel, ProcessorMixin]


def write_tiny(architecture: str, directory: Path, seed: int = 0) -> None:
    """Writes a model of that architecture: weights drawn from `seed`, tokenizer, image processor, chat template.

    The weights are well under a million; images become 16 or 32 pixels wide. Raises `UsageError` that names the
    known architectures.
    """
    if architecture not in MAKERS:
        raise UsageError(f"{architecture}: no known architecture", f"Known are {', '.join(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[]), atomic_directory(directory) as partial:
        torch.manual_seed(seed)
        model, processor = MAKERS[architecture]()
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


def _tokenizer(specials: Sequence[str], bounds: bool = False) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of bytes and special tokens, the first of which pads; with `bounds`, texts begin and end."""
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_of_text = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, []))
    bytes_of_text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_of_text.decoder = decoders.ByteLevel()
    if bounds:
        bytes_of_text.post_processor = processors.TemplateProcessing(
            f"{START} $A {END}", special_tokens=[(token, tokens.index(token)) for token in (START, END)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_of_text,
        pad_token=specials[0],
        eos_token=END if bounds else TURN_END,
        additional_special_tokens=list(specials[1:]),
        padding_side="right" if bounds else "left",
        model_max_length=TOKENS if bounds else LANGUAGE["max_position_embeddings"],
    )


def _text_of_tower(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    known = tokenizer.get_vocab()
    ids = {"bos_token_id": known[START], "eos_token_id": known[END], "pad_token_id": tokenizer.pad_token_id}
    return {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}


def _chat_template(image: str, video: str = "") -> str:
    """Returns a template in which every message is a turn, and every image or video of it stands as given."""
    return (
        "{% for message in messages %}" + TURN + "{{ message['role'] }}\n"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'video' %}" + video + "{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}" + TURN_END + "\n{% endfor %}"
        "{% if add_generation_prompt %}" + TURN + "assistant\n{% endif %}"
    )


def _clip() -> Made:
    tokenizer = _tokenizer(["<pad>", START, END], bounds=True)
    config = CLIPConfig(
        text_config=_text_of_tower(tokenizer),
        vision_config={"image_size": SIDE, "patch_size": PATCH, **TOWER},
        projection_dim=WIDTH,
        initializer_factor=FACTOR,
    )
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return CLIPModel(config), CLIPProcessor(image_processor, tokenizer)


def _siglip() -> Made:
    tokenizer = _tokenizer(["<pad>", START, END], bounds=True)
    config = SiglipConfig(
        text_config=_text_of_tower(tokenizer), vision_config={"image_size": SIDE, "patch_size": PATCH, **TOWER}
    )
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return SiglipModel(config), SiglipProcessor(image_processor, tokenizer)


def _siglip2() -> Made:
    tokens = ["<pad>", END, START, "<unk>", "<mask>", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Siglip2Tokenizer(  # transformers loads this class for this architecture, whatever was saved
        {token: number for number, token in enumerate(tokens)},
        bos_token=START,
        eos_token=END,
        padding_side="right",
        model_max_length=TOKENS,
    )
    patches: dict[str, Any] = {**Siglip2Processor.images_kwargs}  # its processor insists on these
    config = Siglip2Config(
        text_config=_text_of_tower(tokenizer),
        vision_config={"num_patches": patches["max_num_patches"], "patch_size": patches["patch_size"], **TOWER},
    )
    return Siglip2Model(config), Siglip2Processor(Siglip2ImageProcessorPil(**patches), tokenizer)


def _vision_text() -> Made:
    tokenizer = _tokenizer(["<pad>", START, END], bounds=True)
    text = BertModel(BertConfig(**_text_of_tower(tokenizer), initializer_range=SPREAD))
    image = CLIPVisionModel(CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **TOWER, initializer_factor=FACTOR))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(image.config, text.config, projection_dim=WIDTH)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return (
        VisionTextDualEncoderModel(config, image, text),
        VisionTextDualEncoderProcessor(image_processor, tokenizer),
    )


def _qwen(
    config_class: type[Any],
    model_class: type[PreTrainedModel],
    processor_class: type[ProcessorMixin],
    vision: dict[str, Any],
    text: dict[str, Any],
    videos: str,
) -> Made:
    image, video, start, end = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
    tokenizer = _tokenizer(["<|endoftext|>", TURN, TURN_END, start, end, image, video])
    ids = tokenizer.get_vocab()
    config = config_class(
        vision_config={"depth": LAYERS, "num_heads": HEADS, "patch_size": PATCH, "initializer_range": SPREAD, **vision},
        text_config={**LANGUAGE, "vocab_size": len(tokenizer), **text},
        image_token_id=ids[image],
        video_token_id=ids[video],
        vision_start_token_id=ids[start],
        vision_end_token_id=ids[end],
    )
    size = {"shortest_edge": SIDE**2, "longest_edge": 4 * SIDE**2}  # pixels in all, whatever the keys say
    image_processor = Qwen2VLImageProcessorPil(patch_size=PATCH, size=size)
    processor = processor_class(
        image_processor,
        tokenizer,
        video_processor(videos, patch_size=PATCH, size=size, merge_size=2, temporal_patch_size=2),
        chat_template=_chat_template(f"{start}{image}{end}", f"{start}{video}{end}"),
    )
    return model_class(config), processor


ROTATIONS = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}


def _qwen2_vl() -> Made:
    vision = {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2}
    text = {"rope_parameters": ROTATIONS}
    return _qwen(Qwen2VLConfig, Qwen2VLModel, Qwen2VLProcessor, vision, text, "Qwen2VLVideoProcessor")


def _qwen2_5_vl() -> Made:
    vision = {
        "hidden_size": WIDTH,
        "out_hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "window_size": 2 * SIDE,
        "fullatt_block_indexes": [LAYERS - 1],
    }
    text = {"rope_parameters": ROTATIONS}
    return _qwen(Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen2_5_VLProcessor, vision, text, "Qwen2VLVideoProcessor")


def _qwen3_vl() -> Made:
    vision = {
        "hidden_size": WIDTH,
        "out_hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    text = {"head_dim": WIDTH // HEADS, "rope_parameters": {**ROTATIONS, "mrope_interleaved": True}}
    return _qwen(Qwen3VLConfig, Qwen3VLModel, Qwen3VLProcessor, vision, text, "Qwen3VLVideoProcessor")


def _llava_onevision() -> Made:
    image, video = "<image>", "<video>"
    tokenizer = _tokenizer(["<|endoftext|>", TURN, TURN_END, image, video])
    grids = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
            **TOWER,
        },
        text_config={"model_type": "qwen2", **LANGUAGE, "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.get_vocab()[image],
        video_token_index=tokenizer.get_vocab()[video],
        image_grid_pinpoints=grids,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=grids),
        tokenizer,
        video_processor("LlavaOnevisionVideoProcessor", size=size),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_chat_template(f"{image}\n", f"{video}\n"),
    )
    return LlavaOnevisionModel(config), processor


def _idefics(config_class: type[Any], model_class: type[PreTrainedModel], image_processor_class: type[Any]) -> Made:
    image, scale = "<image>", 2
    parts = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    specials = ["<|endoftext|>", TURN, TURN_END, image, "<fake_token_around_image>", "<end_of_utterance>"]
    tokenizer = _tokenizer([*specials, "<global-img>", *parts])
    config = config_class(
        vision_config={"image_size": SIDE, "patch_size": PATCH, "initializer_range": SPREAD, **TOWER},
        text_config={"model_type": "llama", **LANGUAGE, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.get_vocab()[image],
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=scale,
    )
    image_processor = image_processor_class(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(
        image_processor,
        tokenizer,
        image_seq_len=(SIDE // PATCH // scale) ** 2,
        chat_template=_chat_template(image),
    )
    return model_class(config), processor


def _idefics3() -> Made:
    return _idefics(Idefics3Config, Idefics3Model, Idefics3ImageProcessorPil)


def _smolvlm() -> Made:
    """Its images are written into prompts as those of Idefics3; its own processor adds videos, and two packages."""
    return _idefics(SmolVLMConfig, SmolVLMModel, SmolVLMImageProcessorPil)


MAKERS: dict[str, Callable[[], Made]] = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "vision_text": _vision_text,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava_onevision": _llava_onevision,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
}
ARCHITECTURES = tuple(MAKERS)
