"""Models that give an item one vector a token, and the score of such items (late interaction)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.backends.sentence_transformer import (
    Part,
    Side,
    batches,
    content,
    instructed,
    load_model,
    refusal,
    takes,
)
from components.embedder.embedders import Vectors
from components.errors import EmbedlineError

if TYPE_CHECKING:
    from components.corpus.item import Item

TOKENS_AT_ONCE = 2**15


class MultiVectorEmbedder:
    """A sentence-transformers directory of a `MultiVectorEncoder`, which encodes queries and documents differently.

    An item's instruction stands before its text, because the prompts of these models mark the side.
    """

    is_multi_vector = True

    def __init__(self, directory: Path, batch_size: int = 32, name: str = "") -> None:
        from sentence_transformers import MultiVectorEncoder

        self.name = name or directory.name
        self.batch_size = batch_size
        self.model = load_model(MultiVectorEncoder, directory)

    @cached_property
    def dimension(self) -> int:
        """The length of each of an item's vectors."""
        return int(self.model.encode_document("dimension").shape[1])

    def encode(self, items: Sequence[Item], side: Side = "document") -> list[Vectors]:
        """Returns, for each item, `(tokens, dimension)` float32, as the model gives them.

        Raises `UsageError` that names the item which the model does not take.
        """
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        answers: dict[int, Vectors] = {}
        parts = [self._part(row, item) for row, item in enumerate(items)]
        for rows, inputs, _ in batches(parts, self.model, self.batch_size):
            tokens = encode(inputs, batch_size=len(inputs), show_progress_bar=False, convert_to_numpy=True)
            answers |= zip(rows, (np.asarray(vectors, np.float32) for vectors in tokens), strict=True)
        return [answers[row] for row in range(len(items))]

    def _part(self, row: int, item: Item) -> Part:
        whole = content(row, item)
        if not takes(self.model, whole):
            raise refusal(row, whole, self.name, self.model)
        return Part(row, instructed(whole, item.instruction))


def maxsim(queries: Sequence[Vectors], documents: Sequence[Vectors]) -> NDArray[np.float64]:
    """Returns `(queries, documents)`: for each vector of a query its highest inner product with a vector of the
    document, summed over the query (ColBERT, Khattab and Zaharia 2020).

    Each query and document is `(tokens, dimension)`. Products are float64, of a block of documents at a time. Raises
    `EmbedlineError` that names a query or document without tokens, or a pair whose score is not finite.
    """
    for kind, side in (("query", queries), ("document", documents)):
        if empty := [row for row, tokens in enumerate(side) if not len(tokens)]:
            raise EmbedlineError(f"{kind} {empty[0]} has no tokens", "Look at what the model keeps of this item.")
    scores = np.empty((len(queries), len(documents)))
    for start, stop in _blocks([len(tokens) for tokens in documents]):
        block = documents[start:stop]
        tokens = np.concatenate(block).astype(np.float64).T
        firsts = np.cumsum([0, *map(len, block[:-1])])
        for row, query in enumerate(queries):
            products = np.asarray(query, np.float64) @ tokens
            scores[row, start:stop] = np.maximum.reduceat(products, firsts, axis=1).sum(axis=0)
    if not np.isfinite(scores).all():
        query_row, document_row = np.argwhere(~np.isfinite(scores))[0]
        raise EmbedlineError(
            f"query {query_row} and document {document_row}: the score is not finite",
            "No score is given. Look at these items and at the model's weights.",
        )
    return scores


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields the bounds of runs of documents that together have at most `TOKENS_AT_ONCE` tokens, or are one."""
    start = tokens = 0
    for position, length in enumerate(lengths):
        if tokens and tokens + length > TOKENS_AT_ONCE:
            yield start, position
            start, tokens = position, 0
        tokens += length
    if tokens:
        yield start, len(lengths)
