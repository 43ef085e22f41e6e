"""What a student starts with: its teacher's layers of the same shape, and its teacher's vectors of single words.

Layers after Wu et al., TinyCLIP (2023). The word vectors are the teacher's vectors of every single token, reduced to
their principal components and weighted by rank, in the manner of Model2Vec (Tulkens and van Dongen, 2024).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from components.corpus import Item
from components.embedder import Embedder
from components.embedder.dual_encoder import DualEncoder
from components.embedder.towers import WordVectorsModel
from components.training.features import cached
from components.training.towers import vocabulary_size


def inherit(student: nn.Module, teacher: nn.Module) -> None:
    """Copies the weights that have the same name and shape in both; what the student lacks is left out."""
    own = student.state_dict()
    shared = {
        name: value for name, value in teacher.state_dict().items() if name in own and own[name].shape == value.shape
    }
    student.load_state_dict(shared, strict=False)


def inherit_words(student: DualEncoder, teacher: Embedder, path: Path) -> None:
    """Gives word vectors the teacher's meaning of every token; `path` keeps the teacher's vectors. A student that has
    no word vectors keeps its text tower."""
    tower = student.model.text_model
    if not isinstance(tower, WordVectorsModel):
        return
    vectors = torch.from_numpy(np.array(_token_vectors(teacher, student.tokenizer, path)))
    words, basis = principal_components(vectors * _rank_weights(len(vectors)), tower.config.hidden_size)
    with torch.no_grad():
        tower.embeddings.weight.copy_(words)
        if student.description.dimension == len(basis):
            student.model.text_projection.weight.copy_(basis)


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

    return cached(path, (len(tokens), teacher.dimension), np.float32, chunk)


def _rank_weights(size: int) -> Tensor:
    """Returns `(size, 1)`: rare tokens, which come late in the vocabulary, say more about a text than common ones."""
    return torch.log1p(torch.arange(size, dtype=torch.float32)).unsqueeze(1)
