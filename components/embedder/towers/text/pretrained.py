"""A transformers text encoder, whose last hidden states are mean-pooled."""

from __future__ import annotations

from typing import Literal

from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from components.embedder.config import TextTowerSettings
from components.embedder.pretrained import find_model


class Settings(TextTowerSettings):
    """`model` is a directory, a name on the hub, or that of a package that carries it."""

    kind: Literal["pretrained"]
    model: str

    @property
    def pretrained(self) -> tuple[str, ...]:
        return (self.model,)


def build(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the tower and its tokenizer. Raises `EmbedlineError` if the model is nowhere to be found."""
    source = find_model(settings.model)
    return AutoModel.from_pretrained(source), AutoTokenizer.from_pretrained(source)
