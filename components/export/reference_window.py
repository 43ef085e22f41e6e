"""The reference window: how the shipped model saw the data set's queries, for production to be compared with, and some
of what it was trained on, to say what production lies near to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item, Query, read_queries, task_names
from components.embedder import Embedder, Vectors
from components.export.sample import choose, modality, training_items

MOST_QUERIES, MOST_TRAINING, MOST_CONCEPTS = 2000, 2000, 1000
CONCEPT_CHARACTERS = 60
Window = dict[str, NDArray[np.generic]]


def reference_window(embedder: Embedder, data: Path) -> Window:
    """Returns arrays with a row a query, at most `MOST_QUERIES`, from the dev split (the eval split if there is none).

    `vectors (n, dimension)` float32, `norms (n,)`, `top1 (n,)`: the cosine of the best candidate; `modalities (n,)`:
    text, image or composed; `tasks (n,)`: the set that the query is from. `training (m, dimension)`: items that the
    model was trained on, at most `MOST_TRAINING`; `concepts (k,)`, `concept_vectors (k, dimension)`: short texts of
    these, at most `MOST_CONCEPTS`, without an instruction.
    """
    split: Literal["dev", "eval"] = "dev" if task_names(data, "dev") else "eval"
    tasks = task_names(data, split)
    vectors, top1, modalities, names = [], [], [], []
    for task in tasks:
        queries = choose(list(read_queries(data, split, task)), MOST_QUERIES // len(tasks))
        found, best = answers(embedder, queries)
        vectors.append(found)
        top1.append(best)
        modalities += [modality(query.item) for query in queries]
        names += [task] * len(queries)
    everything = np.concatenate(vectors)
    trained = training_items(data)
    short = [item.text for item in trained if item.text and not item.image and len(item.text) <= CONCEPT_CHARACTERS]
    concepts = choose(list(dict.fromkeys(short)), MOST_CONCEPTS)
    return {
        "vectors": everything,
        "norms": np.linalg.norm(everything, axis=1),
        "top1": np.concatenate(top1),
        "modalities": np.array(modalities),
        "tasks": np.array(names),
        "training": encoded(embedder, choose(trained, MOST_TRAINING)),
        "concepts": np.array(concepts, np.str_),
        "concept_vectors": encoded(embedder, [Item(text) for text in concepts]),
    }


def encoded(embedder: Embedder, items: Sequence[Item]) -> Vectors:
    return embedder.encode(items) if items else np.empty((0, embedder.dimension), np.float32)


def answers(embedder: Embedder, queries: list[Query]) -> tuple[Vectors, Vectors]:
    """Returns the vectors of the queries, and the cosine of each to the best of its candidates."""
    items = [query.item for query in queries] + [item for query in queries for item in query.candidates]
    position = {item: number for number, item in enumerate(dict.fromkeys(items))}
    vectors = embedder.encode(list(position))
    of_queries = vectors[[position[query.item] for query in queries]]
    candidates = [vectors[[position[item] for item in query.candidates]] for query in queries]
    best = [(rows @ vector).max() for rows, vector in zip(candidates, of_queries, strict=True)]
    return of_queries, np.array(best, np.float32)
