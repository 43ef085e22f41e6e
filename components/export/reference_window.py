"""The reference window: how the shipped model saw the data set's queries, for production to be compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.corpus import Query, read_queries, task_names
from components.embedder import Embedder, Vectors
from components.export.sample import choose, modality

MOST_QUERIES = 2000
Window = dict[str, NDArray[np.generic]]


def reference_window(embedder: Embedder, data: Path) -> Window:
    """Returns arrays with a row a query, at most `MOST_QUERIES`, from the dev split (the eval split if there is none).

    `vectors (n, dimension)` float32, `norms (n,)`, `top1 (n,)`: the cosine of the best candidate; `modalities (n,)`:
    text, image or composed; `tasks (n,)`: the set that the query is from.
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
    return {
        "vectors": everything,
        "norms": np.linalg.norm(everything, axis=1),
        "top1": np.concatenate(top1),
        "modalities": np.array(modalities),
        "tasks": np.array(names),
    }


def answers(embedder: Embedder, queries: list[Query]) -> tuple[Vectors, Vectors]:
    """Returns the vectors of the queries, and the cosine of each to the best of its candidates."""
    items = [query.item for query in queries] + [item for query in queries for item in query.candidates]
    position = {item: number for number, item in enumerate(dict.fromkeys(items))}
    vectors = embedder.encode(list(position))
    of_queries = vectors[[position[query.item] for query in queries]]
    candidates = [vectors[[position[item] for item in query.candidates]] for query in queries]
    best = [(rows @ vector).max() for rows, vector in zip(candidates, of_queries, strict=True)]
    return of_queries, np.array(best, np.float32)
