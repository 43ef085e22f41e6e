"""One vector for each token of a tokenizer, no context: a text is the mean of its tokens' vectors.

A student's word vectors start as its teacher's vectors of every single token, reduced to their principal components and
weighted by rank, in the manner of Model2Vec (Tulkens and van Dongen, 2024).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput

from components.corpus.item import Item
from components.embedder.config import TextTowerSettings
from components.embedder.pretrained import find_model
from components.files import memory_mapped
from components.sections import Positive

if TYPE_CHECKING:
    from components.embedder.dual_encoder import DualEncoder
    from components.embedder.embedders import Embedder


class Settings(TextTowerSettings):
    kind: Literal["word_vectors"]
    tokenizer: str
    width: Positive

    @property
    def least_dimension(self) -> int:
        return self.width

    @property
    def pretrained(self) -> tuple[str, ...]:
        return (self.tokenizer,)


class WordVectorsConfig(PretrainedConfig):
    model_type = "embedline_word_vectors"

    def __init__(self, vocab_size: int = 30522, hidden_size: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size


class WordVectorsModel(PreTrainedModel):
    """`input_ids (n, tokens)` to `last_hidden_state (n, tokens, hidden_size)`: one vector a token, no context."""

    config_class = WordVectorsConfig
    main_input_name = "input_ids"

    def __init__(self, config: WordVectorsConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.embeddings(input_ids))


AutoConfig.register(WordVectorsConfig.model_type, WordVectorsConfig, exist_ok=True)
AutoModel.register(WordVectorsConfig, WordVectorsModel, exist_ok=True)


def build(settings: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the tower and its tokenizer. Raises `EmbedlineError` if the tokenizer is nowhere to be found."""
    tokenizer = AutoTokenizer.from_pretrained(find_model(settings.tokenizer))
    return WordVectorsModel(WordVectorsConfig(vocabulary_size(tokenizer), settings.width)), tokenizer


def start(encoder: DualEncoder, teacher: Embedder, folder: Path) -> None:
    """Gives the word vectors the teacher's meaning of every token; `folder` keeps the teacher's vectors of them."""
    tower: Any = encoder.model.text_model
    projection: Any = encoder.model.text_projection
    vectors = torch.from_numpy(np.array(_token_vectors(teacher, encoder.tokenizer, folder / "tokens.npy")))
    words, basis = principal_components(vectors * _rank_weights(len(vectors)), tower.config.hidden_size)
    with torch.no_grad():
        tower.embeddings.weight.copy_(words)
        if encoder.description.dimension == len(basis):
            projection.weight.copy_(basis)


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many numbers the tokens need; some may be no token's."""
    return 1 + max(tokenizer.get_vocab().values())


def principal_components(vectors: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """Returns `words (n, dimension)` and `basis (width, dimension)` so that `words @ basis.T` is near `vectors`."""
    _, axes = torch.linalg.eigh(vectors.T @ vectors)
    basis = axes[:, -dimension:].flip(1).contiguous()
    return vectors @ basis, basis


def token_text(token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns what the token stands for, without the marks of where a word starts or goes on."""
    return tokenizer.convert_tokens_to_string([token]).removeprefix("##").strip() or token


def _token_vectors(teacher: Embedder, tokenizer: PreTrainedTokenizerBase, path: Path) -> NDArray[np.float32]:
    """Returns the teacher's vector of every token of the vocabulary as a text, `(vocabulary, dimension)`; specials, and
    numbers that no token has, are zero. All but the unknown one: a text of nothing but unknown words must not be the
    zero vector, which has no direction."""
    specials = {None, *tokenizer.all_special_tokens} - {tokenizer.unk_token}
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocabulary_size(tokenizer))))

    def chunk(start: int, stop: int) -> NDArray[np.float32]:
        texts = [token_text(token, tokenizer) if token else "none" for token in tokens[start:stop]]
        vectors = np.array(teacher.encode([Item(text=text) for text in texts]))
        vectors[[row for row, token in enumerate(tokens[start:stop]) if token in specials]] = 0
        return vectors

    return memory_mapped(path, (len(tokens), teacher.dimension), np.float32, chunk)


def _rank_weights(size: int) -> Tensor:
    """Returns `(size, 1)`: rare tokens, which come late in the vocabulary, say more about a text than common ones."""
    return torch.log1p(torch.arange(size, dtype=torch.float32)).unsqueeze(1)
