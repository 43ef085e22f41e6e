"""A vector for each letter."""

from __future__ import annotations

import string
from typing import Any, Literal

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from components.embedder.config import TextTowerSettings
from components.sections import Positive

LETTERS = ["[PAD]", "[UNK]", *string.ascii_lowercase, *string.digits]


class Settings(TextTowerSettings):
    kind: Literal["letters"]
    width: Positive


class LettersConfig(PretrainedConfig):
    model_type = "extension_letters"

    def __init__(self, hidden_size: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size


class LettersModel(PreTrainedModel):
    config_class = LettersConfig
    main_input_name = "input_ids"

    def __init__(self, config: LettersConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(len(LETTERS), config.hidden_size)
        self.post_init()

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.embeddings(input_ids))


AutoConfig.register(LettersConfig.model_type, LettersConfig, exist_ok=True)
AutoModel.register(LettersConfig, LettersModel, exist_ok=True)


def build(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = Tokenizer(WordLevel({letter: number for number, letter in enumerate(LETTERS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    return LettersModel(LettersConfig(settings.width)), fast
