"""A sentence-transformers module over transformers' `VisionTextDualEncoderModel`: text, image or both to one vector.

`save` writes it so that it loads where this project is not installed; see `components/embedder/module_file.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from components.embedder.module_file import module_source
from components.embedder.runtime import DESCRIPTION, Description, pixel_values
from components.embedder.towers import register_towers
from components.errors import UsageError

MODULES, MODULE_FILE = "modules.json", "modeling_embedline.py"
MODULE = f"{MODULE_FILE.removesuffix('.py')}.DualEncoder"
"""What `modules.json` calls a dual encoder: the class of that name in the module file of the directory."""

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the processor has instructions for it, else float32: emulated, it is many times slower."""


class DualEncoder(InputModule):
    """Encodes dictionaries `{"text": ..., "image": ..., "instruction": ...}`, each part optional.

    Texts are mean-pooled over the last hidden state of the text tower, images are what the image tower pools; both
    are projected and L2-normalised. An item of several parts is the normalised, weighted sum of their vectors. The
    library's `prompt` is the instruction of every item that brings none.
    """

    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self, model: VisionTextDualEncoderModel, tokenizer: PreTrainedTokenizerBase, description: Description
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.model.text_model.pooler = None  # texts are mean-pooled; this one would be random weights after each load
        self.tokenizer = tokenizer
        self.description = description

    @property
    def modalities(self) -> list[Any]:
        return ["text", "image", ("image", "text")]

    def get_embedding_dimension(self) -> int:
        return self.description.dimension

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Returns `input_ids` and `attention_mask`, `(n, longest)` int64."""
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.description.max_tokens, return_tensors="pt"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def pool_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns `(n, text width)`: the mean of the text tower's last hidden states, before the projection."""
        hidden = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        return pooled

    def project_text(self, pooled: Tensor) -> Tensor:
        """Returns `(n, dimension)`, L2-normalised."""
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns `(n, dimension)`, L2-normalised."""
        return self.project_text(self.pool_text(input_ids, attention_mask))

    def pool_images(self, pixels: Tensor) -> Tensor:
        """Returns `(n, image width)` of `pixels (n, 3, size, size)`: what the image tower pools, not projected."""
        pooled: Tensor = self.model.vision_model(pixel_values=pixels).pooler_output
        return pooled

    def project_image(self, pooled: Tensor) -> Tensor:
        """Returns `(n, dimension)`, L2-normalised."""
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Returns `(n, dimension)`, L2-normalised, of `pixels (n, 3, size, size)`."""
        return self.project_image(self.pool_images(pixels))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Returns the tensors of all parts and, for each, the rows of the batch that it belongs to.

        Raises `ValueError` if an item has neither text nor image.
        """
        parts = [
            part if isinstance(part, dict) else {"text": part} if isinstance(part, str) else {"image": part}
            for part in inputs
        ]
        for row, part in enumerate(parts):
            if not part.get("text") and part.get("image") is None:
                raise ValueError(f"item {row} has neither text nor image")
        weight = self.description.instruction_weight
        texts = [(row, part["text"], 1.0) for row, part in enumerate(parts) if part.get("text")]
        instructions = [part.get("instruction") or prompt for part in parts]
        texts += [(row, instruction, weight) for row, instruction in enumerate(instructions) if instruction and weight]
        images = [(row, part["image"]) for row, part in enumerate(parts) if part.get("image") is not None]
        features: dict[str, Any] = {"rows": torch.tensor(len(parts))}
        if texts:
            features |= self.tokens([text for _, text, _ in texts])
            features["text_rows"] = torch.tensor([row for row, _, _ in texts])
            features["text_weights"] = torch.tensor([[weight] for _, _, weight in texts])
        if images:
            pixels = pixel_values([image for _, image in images], self.description)
            features["pixel_values"] = torch.from_numpy(pixels)
            features["image_rows"] = torch.tensor([row for row, _ in images])
        return features

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        total = torch.zeros(int(features["rows"]), self.description.dimension, device=self.model.device)
        if "text_rows" in features:
            vectors = self.embed_text(features["input_ids"], features["attention_mask"]) * features["text_weights"]
            total = total.index_add(0, features["text_rows"], vectors.to(total.dtype))
        if "image_rows" in features:
            vectors = self.embed_images(features["pixel_values"])
            total = total.index_add(0, features["image_rows"], vectors.to(total.dtype))
        features["sentence_embedding"] = functional.normalize(total, dim=-1)
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        self.model.save_pretrained(output_path)
        if isinstance(self.tokenizer, PreTrainedTokenizerFast):  # how long the last batch was is no part of the model
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(output_path)
        (Path(output_path) / DESCRIPTION).write_text(json.dumps(asdict(self.description), indent=2), encoding="utf-8")

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        *_: Any,
        **__: Any,
    ) -> DualEncoder:
        directory = cls.load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only)
        if directory is None:
            raise FileNotFoundError(f"{model_name_or_path}: no such directory, and no such model on the hub")
        return cls(
            VisionTextDualEncoderModel.from_pretrained(directory),
            AutoTokenizer.from_pretrained(directory),
            Description.read(Path(directory)),
        )


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Returns the context that computes in the precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if is_bfloat16(precision, device) else nullcontext()


def is_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Returns whether a precision means bfloat16 on a device."""
    return precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device))


@cache
def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def assemble(
    text_tower: PreTrainedModel,
    image_tower: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    description: Description,
) -> DualEncoder:
    """Returns a dual encoder of two towers, with new projections to `description.dimension`.

    Raises `UsageError` if a tower's code cannot be written into a model directory.
    """
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        image_tower.config, text_tower.config, projection_dim=description.dimension
    )
    model = VisionTextDualEncoderModel(config=config, vision_model=image_tower, text_model=text_tower)
    _module_source(model)  # what `save` would refuse is refused before it has been trained
    return DualEncoder(model, tokenizer, description)


def save(encoder: DualEncoder, directory: Path) -> None:
    """Writes a sentence-transformers model directory, which loads with `trust_remote_code=True` without this project.

    The same encoder gives the same bytes.
    """
    SentenceTransformer(modules=[encoder], device="cpu").save(str(directory), create_model_card=False)
    (directory / MODULE_FILE).write_text(_module_source(encoder.model), encoding="utf-8")
    modules = json.loads((directory / MODULES).read_text(encoding="utf-8"))
    modules[0]["type"] = MODULE
    (directory / MODULES).write_text(json.dumps(modules, indent=2), encoding="utf-8")


def load(directory: Path) -> DualEncoder:
    """Returns the dual encoder of a directory that `save` has written. It is computed by the classes of this project:
    the directory's own code does not run.

    Raises `UsageError` if the directory is that of another model.
    """
    file = directory / MODULES
    try:
        types = [module["type"] for module in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{file}: cannot be read: {error}", "Get the model again.") from error
    if types != [MODULE]:
        raise UsageError(
            f"{file}: names {', '.join(map(str, types)) or 'nothing'}, and a dual encoder is {MODULE} alone",
            "Name a directory that this version has written.",
        )
    register_towers()
    return DualEncoder.load(str(directory)).eval()


def _module_source(model: VisionTextDualEncoderModel) -> str:
    towers = (type(tower) for tower in (model.text_model, model.vision_model))
    ours = (tower for tower in towers if not tower.__module__.startswith("transformers."))
    return module_source("The model of this directory as a sentence-transformers module.", DualEncoder, *ours)
