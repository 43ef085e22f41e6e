"""A reranker's scores of hard negatives: it reads a query and a candidate together, which takes long and sees more.

The student learns to weigh a query's candidates so by the loss `scores`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import nn

from components.backends.directory import find_directory
from components.backends.sentence_transformer import instructed, load_model
from components.embedder.runtime import load_image
from components.errors import UsageError
from components.training.examples import INSTRUCTION, NONE, Examples, modalities
from components.training.negatives import Floats, Mined

Positions = NDArray[np.int32]
PARTS = {1: "a text", 2: "an image", 3: "an image with text"}  # by the numbers of `modalities`
TEXT_ALONE = 1
PAIRS_AT_ONCE = 128  # whose images are held decoded
BATCH_SIZE = 32


class Reranker:
    """A sentence-transformers CrossEncoder for pairs of a training set: a directory, or a name on the hub.

    A query's instruction is the library's `prompt`, as for the embedders: a chat model gets it as system message, every
    other one before the query's text.
    """

    def __init__(self, name: str, examples: Examples) -> None:
        """Raises `UsageError` if there is no such model, or if it cannot read the pairs of the training set."""
        self.name = name
        self.examples = examples
        self.model = load_model(CrossEncoder, find_directory(name))
        # a head that the files lack, the library draws at random; then its class is none that they name
        network, known = self.model.model, getattr(self.model.config, "architectures", None) or []
        if self.model.num_labels != 1 or (network is not None and type(network).__name__ not in known):
            raise UsageError(
                f"{name}: is no reranker: it was not trained to give one score to a pair",
                "Name a CrossEncoder with one label.",
            )
        self.is_chat = self.model.supports("message")
        self.reads_images = self.is_chat and self.model.supports("image")
        for task in examples.tasks:
            self.check(task, examples.queries[task], examples.positives[task])

    def check(self, task: str, queries: Positions, candidates: Positions) -> None:
        """Raises `UsageError` if it cannot read each of `queries (n, 3)` with its candidate of `candidates (n, 3)`."""
        kinds = np.stack([modalities(queries), modalities(candidates)], 1)
        for query, candidate in np.unique(kinds, axis=0).tolist():
            if not self.reads_images and {query, candidate} != {TEXT_ALONE}:
                raise UsageError(
                    f"{self.name}: reads texts alone, and the task {task} pairs {PARTS[query]} with {PARTS[candidate]}",
                    "Name a reranker that reads images too, or none: negatives.reranker: null.",
                )

    def __call__(self, queries: Positions, candidates: Positions) -> Floats:
        """Returns `(n,)`: the model's raw output, without activation, for each of `queries (n, 3)` and its candidate.

        A sigmoid, the usual activation, would make all good candidates alike. Raises `UsageError` if the model, or its
        chat template, takes no such pairs.
        """
        scores = np.empty(len(queries), np.float32)
        for instruction in np.unique(queries[:, INSTRUCTION]).tolist():
            prompt = None if instruction == NONE else self.examples.texts[instruction] + ("" if self.is_chat else " ")
            rows = np.flatnonzero(queries[:, INSTRUCTION] == instruction)
            for some in np.split(rows, range(PAIRS_AT_ONCE, len(rows), PAIRS_AT_ONCE)):
                sides = zip(queries[some].tolist(), candidates[some].tolist(), strict=True)
                try:
                    scores[some] = self.model.predict(
                        [self._pair(*map(self.examples.content, pair)) for pair in sides],
                        prompt=prompt,
                        batch_size=BATCH_SIZE,
                        activation_fn=nn.Identity(),
                        show_progress_bar=False,
                    )
                except ValueError as error:
                    raise UsageError(f"{self.name}: {error}", "Name another negatives.reranker, or none.") from error
        return scores

    def _pair(self, query: dict[str, str], candidate: dict[str, str]) -> tuple[Any, Any]:
        """Returns what the model takes; texts go in dictionaries where one could be taken for an image's address."""
        candidate = instructed(candidate, candidate.get("instruction"))
        return self._side(query), self._side(candidate)

    def _side(self, content: dict[str, str]) -> Any:
        if not self.reads_images:
            return content["text"]
        image = {"image": load_image(content["image"])} if "image" in content else {}
        return image | ({"text": content["text"]} if "text" in content else {})


def rerank(reranker: Reranker, mined: Mapping[str, Mined]) -> dict[str, Mined]:
    """Returns what was mined, with the reranker's scores. Raises `UsageError` as the reranker does."""
    examples = reranker.examples

    def of_task(task: str, found: Mined) -> Mined:
        candidates = np.concatenate([examples.positives[task][:, None], found.positions], 1)
        there = (candidates != NONE).any(2)
        queries, candidates = examples.queries[task][np.nonzero(there)[0]], candidates[there]
        reranker.check(task, queries, candidates)
        scores = np.full(there.shape, np.nan, np.float32)
        scores[there] = reranker(queries, candidates)
        return replace(found, reranker_scores=scores)

    return {task: of_task(task, found) for task, found in mined.items()}
