"""Models that sentence-transformers loads whole: CLIP, SigLIP and other dual encoders, and vision-language models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import Idefics3Processor

from components.backends.directory import MODULES, find_directory
from components.backends.sentence_transformer import load_model
from components.backends.tiny import write_tiny
from components.errors import UsageError

PoolingMode = Literal["lasttoken", "mean", "cls"]
RANDOM = "random:"
READS_LAST_POSITION = ("siglip", "siglip2")
"""Architectures whose vector of a text is that of its last position, padding or not: they learned full-length texts."""


def load_whole(model: str, pooling: PoolingMode | None, seed: int, kept: Path | None = None) -> SentenceTransformer:
    """Returns the model with float32 weights, in evaluation mode, on the accelerator if there is one.

    `model` is a directory, a name on the hub where `HF_HUB_OFFLINE=0`, or `random:ARCHITECTURE`, a tiny one that
    `seed` draws, written to `kept` if other processes need it; `seed` also draws what a directory lacks. `pooling` is
    how a generative model's hidden states become a vector. A dual encoder pools by itself, as does a directory that
    sentence-transformers has written: they want None. Raises `UsageError` where pooling does not fit, where there is
    no such model or architecture, or where a vision-language model has no chat template; `EmbedlineError` if the hub
    does not give the model.
    """
    torch.manual_seed(seed)
    if model.startswith(RANDOM):
        with TemporaryDirectory() as folder:
            directory = kept or Path(folder) / "model"
            if not directory.exists():
                write_tiny(model.removeprefix(RANDOM), directory, seed)
            return _load(directory, pooling, model)
    return _load(find_directory(model), pooling, model)


def _load(directory: Path, pooling: PoolingMode | None, name: str) -> SentenceTransformer:
    if (directory / MODULES).is_file():
        if pooling:
            raise UsageError(f"{name}: says itself how it pools", f"Leave pooling out instead of {pooling}.")
        return load_model(SentenceTransformer, directory).float()
    transformer = load_model(Transformer, directory).float()
    pools_itself = transformer.module_output_name == "sentence_embedding"
    if pools_itself and pooling:
        raise UsageError(f"{name}: pools by itself", f"Leave pooling out instead of {pooling}.")
    if not pools_itself and not pooling:
        raise UsageError(f"{name}: does not pool by itself", "Name a pooling: lasttoken, mean or cls.")
    if not pools_itself and "image" in transformer.modalities and "message" not in transformer.modalities:
        raise UsageError(
            f"{name}: has no chat template, so that it is not known where images stand among words",
            "Put the model's chat_template.jinja into its directory.",
        )
    if transformer.config.model_type in READS_LAST_POSITION:
        length = transformer.config.text_config.max_position_embeddings
        transformer.processing_kwargs = {"text": {"padding": "max_length", "max_length": length}}
    if "message" in transformer.modalities and not isinstance(transformer.processor, Idefics3Processor):
        # A text may hold what stands for an image. Idefics3's own processor cannot tell it from an image's place.
        transformer.processing_kwargs = {"chat_template": {"sanitize_control_tokens": True}}
    pooled = [Pooling(transformer.get_embedding_dimension(), pooling)] if pooling else []
    return SentenceTransformer(modules=[transformer, *pooled]).eval()
