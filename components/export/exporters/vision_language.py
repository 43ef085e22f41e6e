"""Vision-language models of the Qwen2-VL, Qwen2.5-VL and Qwen3-VL kind as one ONNX graph.

The graph takes any number of items, each of text, of any number of images of any sizes, or of both. What depends on the
images' sizes goes in as tensors that `runtimes/vision_language.py` computes (see its `Preparation.batch`), so that no
shape of an example, and no grid of an image, is baked in. Papers: arXiv:2409.12191, arXiv:2502.13923, and for DeepStack
arXiv:2406.04334.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from components.backends.directory import matryoshka_dimensions, transformers_type
from components.backends.sentence_transformer import load_model
from components.embedder.embedders import RUNTIME
from components.embedder.module_file import module_source
from components.errors import Refused
from components.export.onnx_graphs import write
from components.export.runtimes.vision_language import (
    DESCRIPTION,
    GRAPH,
    OUTPUT,
    TOKENIZER,
    Description,
    Preparation,
    Runtime,
)

PURPOSE = "The vision-language model of this directory as it is served."
KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
POOLINGS = ("lasttoken", "mean", "cls")
FIXED = {
    "position_ids": (0,),
    "pixel_values": (1, 2),
    "patch_positions": (1, 2),
    "table_rows": (1, 2),
    "table_weights": (1, 2),
}
"""The axes of inputs whose sizes the model itself fixes."""
MASKED = torch.finfo(torch.float32).min
WHOLE_TEXTS = {"restore_suffix", "truncation", "max_length", "padding"}
"""Settings of sentence-transformers for a chat template that change what is made of long texts."""
TEXT, INSTRUCTION = "Ein Text.", "Eine Anweisung."
REMEDY = "Serve it as sentence-transformers does, or choose a model that can be exported."


def reads(directory: Path) -> bool:
    """Returns whether a directory is a sentence-transformers model of one of `KINDS`, or what `export` made of one."""
    return (directory / DESCRIPTION).is_file() or transformers_type(directory) in KINDS


def export(directory: Path, target: Path, opset: int) -> None:
    """Writes to `target` the runtime and what it loads: `model.onnx`, whose only output is `sentence_embedding (n,
    dimension)` float32, L2-normalised; its weights beside it where they are too large for one file.

    Raises `Refused` if something of the model is not in the graph or in the runtime, or if the runtime prepares an item
    otherwise than the model's own processor; `UsageError` if sentence-transformers cannot load the directory.
    """
    model: Any = load_model(SentenceTransformer, directory).float().cpu()
    description, tokenizer = describe(model, directory), tokenizer_of(model[0])
    preparation = Preparation(description, tokenizer)
    demand_same_inputs(preparation, model[0], directory.name)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(target / TOKENIZER))
    (target / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n", "utf-8")
    (target / RUNTIME).write_text(module_source(PURPOSE, Runtime), encoding="utf-8")
    write(Graph(model[0].model), example(preparation), OUTPUT, target / GRAPH, opset, FIXED)


class Graph(nn.Module):
    """The model from prepared tensors to unit vectors; for its inputs see `Preparation.batch`."""

    axes: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.set_attn_implementation("eager")
        self.vision: Any = model.visual
        self.language: Any = model.language_model
        self.patches = linear(self.vision.patch_embed.proj)
        self.register_buffer("axes", rotary_axes(self.language.rotary_emb))
        self.deep_layers: list[int] = list(getattr(self.vision, "deepstack_visual_indexes", []))
        self.whole_layers: list[int] | None = getattr(self.vision, "fullatt_block_indexes", None)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        feature_rows: Tensor,
        pooling: Tensor,
        pixel_values: Tensor,
        patch_positions: Tensor,
        image_patches: Tensor,
        image_slots: Tensor,
        window_patches: Tensor | None = None,
        window_slots: Tensor | None = None,
        table_rows: Tensor | None = None,
        table_weights: Tensor | None = None,
    ) -> Tensor:
        hidden = self.patches(pixel_values.flatten(0, 1))
        if table_rows is not None and table_weights is not None:
            table = self.vision.pos_embed(table_rows.flatten(0, 1)) * table_weights.flatten(0, 1)[..., None]
            hidden = hidden + table.sum(-2)
        rotation = self.vision.rotary_pos_emb(hidden, patch_positions.flatten(0, 1))
        whole: Any = (image_patches, image_slots)
        windows: Any = (window_patches, window_slots)
        deep = []
        for number, block in enumerate(self.vision.blocks):
            seen = whole if self.whole_layers is None or number in self.whole_layers else windows
            hidden = hidden + attend(block.attn, block.norm1(hidden), rotation, *seen)
            hidden = hidden + block.mlp(block.norm2(hidden))
            if number in self.deep_layers:
                deep.append(self.vision.deepstack_merger_list[self.deep_layers.index(number)](hidden))
        return self.read(input_ids, position_ids, feature_rows, pooling, self.vision.merger(hidden), deep)

    def read(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        feature_rows: Tensor,
        pooling: Tensor,
        features: Tensor,
        deep: list[Tensor],
    ) -> Tensor:
        """Returns the vectors, given the images' features, and those to be added after each of the first layers."""
        is_image = (feature_rows >= 0)[..., None]
        hidden = torch.where(is_image, rows_of(features, feature_rows), self.language.embed_tokens(input_ids))
        angles = position_ids.float().index_select(0, self.axes).permute(1, 2, 0) * self.language.rotary_emb.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        order = torch.arange(input_ids.shape[1])
        # Padding stands on the right, where no token that counts looks.
        causal = torch.where(order[:, None] >= order[None, :], 0.0, MASKED)[None, None]
        for number, layer in enumerate(self.language.layers):
            hidden = layer(hidden, attention_mask=causal, position_embeddings=(angles.cos(), angles.sin()))
            if number < len(deep):
                hidden = hidden + torch.where(is_image, rows_of(deep[number], feature_rows), 0.0)
        pooled = (pooling[:, None] @ self.language.norm(hidden))[:, 0]
        return functional.normalize(pooled, dim=-1)


def attend(attention: Any, hidden: Tensor, rotation: tuple[Tensor, Tensor], groups: Tensor, slots: Tensor) -> Tensor:
    """Returns `(patches, width)`: attention of all patches of a group to one another, and to no others.

    `groups (groups, most)` numbers each one's patches, filled up with -1; `slots (patches,)` says where in the
    flattened `groups` each patch is.
    """
    cosine, sine = (part[:, None] for part in rotation)
    query, key, value = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    query, key = (part * cosine + rotate_half(part) * sine for part in (query, key))
    query, key, value = (
        rows_of(part.flatten(1), groups).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (query, key, value)
    )
    mask = torch.where(groups >= 0, 0.0, MASKED)[:, None, None]
    weights = torch.softmax(query @ key.transpose(-1, -2) * attention.scaling + mask, dim=-1)
    seen: Tensor = attention.proj(rows_of((weights @ value).transpose(1, 2).flatten(2).flatten(0, 1), slots))
    return seen


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Returns the rows of a `(n, width)` table; the first where -1 says that there is none. An embedding, since the
    exporter makes a plain Gather of it, which every parser knows."""
    return functional.embedding(rows.clamp(min=0), table)


def rotate_half(part: Tensor) -> Tensor:
    first, second = part.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def linear(convolution: Any) -> nn.Linear:
    """Returns what a convolution over exactly one patch is."""
    weight = convolution.weight.flatten(1)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=convolution.bias is not None)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), convolution.bias
    return layer


def rotary_axes(rotary: Any) -> Tensor:
    """Returns `(frequencies,)`: whether time (0), row (1) or column (2) turns each, found by moving along one alone."""
    one_each = torch.eye(3, dtype=torch.int64)[:, None]
    _, sine = rotary(torch.zeros(1), one_each)
    axes: Tensor = sine[0, :, : len(rotary.inv_freq)].abs().argmax(0)
    return axes


def describe(model: Any, directory: Path) -> Description:
    """Returns what the runtime must know. Raises `Refused` if the model does something that it does not do."""
    name = directory.name
    transformer, pooling, *rest = list(model) if len(model) > 1 else [model[0], None]
    if not isinstance(transformer, Transformer) or not isinstance(pooling, Pooling):
        raise Refused(f"{name}: its modules are no Transformer with a Pooling", REMEDY)
    if any(not isinstance(module, Normalize) for module in rest):
        raise Refused(f"{name}: {', '.join(type(module).__name__ for module in rest)} after its pooling", REMEDY)
    if pooling.pooling_mode not in POOLINGS:
        raise Refused(f"{name}: pools by {pooling.pooling_mode}; exported are {', '.join(POOLINGS)}", REMEDY)
    processor, config = transformer.processor, transformer.model.config
    images, tokenizer = processor.image_processor, transformer.tokenizer
    text, vision = config.text_config, config.vision_config
    settings = dict(transformer.processing_kwargs)
    template = dict(settings.pop("chat_template", {}))
    sanitised = template.pop("sanitize_control_tokens", False)
    message = transformer.modality_config.get("message", {"method": None, "method_output_name": None})
    for fine, problem in (
        (model.truncate_dim is None, "it cuts its vectors"),
        (pooling.include_prompt, "it leaves instructions out of its mean"),
        (config.model_type in KINDS, f"it is a {config.model_type}"),
        (text.rope_parameters["rope_type"] == "default", "its rotary positions are scaled"),
        (set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}, "its layers slide"),
        (getattr(text, "is_causal", True) is not False, "its text attention is not causal"),
        (message["method"] == "forward", "it takes no chat messages"),
        (message["method_output_name"] == "last_hidden_state", "it pools something other than its last layer"),
        (not WHOLE_TEXTS & template.keys(), "it sets how its chat template is cut"),
        (not settings, f"it sets {', '.join(settings)} of its processor"),
        (tokenizer.truncation_side == "right", "it cuts texts at their beginning"),
        (images.do_resize and images.do_rescale and images.do_normalize, "it leaves out a step of image processing"),
        (images.patch_size == vision.patch_size, "its image processor has patches of another size"),
        (images.merge_size == vision.spatial_merge_size, "its image processor merges patches otherwise"),
    ):
        if not fine:
            raise Refused(f"{name}: {problem}, which is not exported", REMEDY)
    prompt, instructed, image = prompts(processor, template, processor.image_token, name)
    window = getattr(vision, "window_size", None)
    table = getattr(transformer.model.visual, "num_grid_per_side", None)
    return Description(
        dimension=text.hidden_size,
        matryoshka_dimensions=matryoshka_dimensions(directory),
        pooling=pooling.pooling_mode,
        prompt=prompt,
        instructed=instructed,
        image=image,
        image_token=processor.image_token,
        default_instruction=model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None,
        control_tokens=tuple(tokenizer._get_control_tokens(processor.chat_template)) if sanitised else None,
        max_tokens=tokenizer.model_max_length if tokenizer.model_max_length < 2**31 else None,
        patch_size=images.patch_size,
        frames=images.temporal_patch_size,
        merged=images.merge_size,
        pixels=(images.size["shortest_edge"], images.size["longest_edge"]),
        resample=int(images.resample),
        rescale_factor=images.rescale_factor,
        image_mean=tuple(images.image_mean),
        image_std=tuple(images.image_std),
        window=window // vision.spatial_merge_size // vision.patch_size if window else None,
        table_side=table,
    )


def prompts(
    processor: Any, settings: Mapping[str, Any], token: str, name: str
) -> tuple[tuple[str, str], tuple[str, str, str], str]:
    """Returns the chat template as what stands around an item, around an instruction and an item, and for an image.

    Raises `Refused` if the template writes an item otherwise than instruction, images and text in a row.
    """

    def render(text: str | None, images: int, instruction: str | None = None) -> str:
        content = [{"type": "image", "image": None}] * images + ([{"type": "text", "text": text}] if text else [])
        system = [{"role": "system", "content": [{"type": "text", "text": instruction}]}] if instruction else []
        chat = [*system, {"role": "user", "content": content}]
        try:
            rendered: str = processor.apply_chat_template(chat, tokenize=False, **settings)
        except Exception as error:  # whatever a template of somebody else's does
            raise Refused(f"{name}: its chat template does not write every item: {error}", REMEDY) from error
        return rendered

    before, *after = render(TEXT, 0).split(TEXT)
    head, *middle = render(TEXT, 0, INSTRUCTION).split(INSTRUCTION)
    between, *ending = "".join(middle).split(TEXT)
    image = render(TEXT, 1).removeprefix(before).removesuffix(TEXT + "".join(after))
    if len(after) == len(middle) == len(ending) == image.count(token) == 1 and all(
        render(text, images, instruction)
        == (head + instruction + between if instruction else before)
        + image * images
        + (text or "")
        + (ending[0] if instruction else after[0])
        for text in (None, TEXT, f"  {TEXT}\n")
        for images in (0, 1, 3)
        for instruction in (None, INSTRUCTION, f"  {INSTRUCTION}\n")
        if text or images
    ):
        return (before, after[0]), (head, between, ending[0]), image
    raise Refused(f"{name}: its chat template does not write instruction, images and text in a row", REMEDY)


def tokenizer_of(transformer: Any) -> Tokenizer:
    tokenizer = Tokenizer.from_str(transformer.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()  # whatever the last call has set
    tokenizer.no_truncation()
    return tokenizer


def demand_same_inputs(preparation: Preparation, transformer: Any, name: str) -> None:
    """Raises `Refused` if the runtime makes other tokens or pixels of an item than the model's own processor."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))
    spelt = "".join(preparation.description.control_tokens or ())
    texts = (None, "Grüße, 世界! 12,345 times  two\n", f"before {spelt} after")
    for text, image, instruction in product(texts, (None, noise, noise.rotate(90, expand=True)), (None, INSTRUCTION)):
        content: dict[str, Any] = ({"image": image} if image else {}) | ({"text": text} if text else {})
        if not content:
            continue
        expected = transformer.preprocess([content], prompt=instruction or preparation.description.default_instruction)
        found = preparation.item(text, image, instruction)
        if expected["input_ids"][0].tolist() != found.ids:
            raise Refused(f"{name}: the runtime makes other tokens of {text!r} than its processor", REMEDY)
        if image and not np.array_equal(expected["pixel_values"].numpy(), found.pixels[0]):
            raise Refused(f"{name}: the runtime makes other pixels of an image than its processor", REMEDY)


def example(preparation: Preparation) -> dict[str, Tensor]:
    """Returns inputs of which each free size is another, and none is 0 or 1, which torch takes for fixed."""
    side = preparation.description.patch_size * preparation.description.merged
    images = [Image.new("RGB", size) for size in ((4 * side, 3 * side), (2 * side, 5 * side), (6 * side, side))]
    items = [preparation.item("a", images[:1], None), preparation.item("a b", images[1:], None)]
    return {name: torch.from_numpy(value) for name, value in preparation.batch(items).items()}
