"""Small real data sets on disk, and embedders whose vectors are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus import EVAL_SCHEMA, EvaluationTask, Item, Manifest, Tasks
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.embedder import Vectors
from components.evaluation import Task
from components.evaluation.config import Evaluation
from components.evaluation.report import BATCHES_PER_CHUNK
from components.scores import Model

Rows = list[dict[str, Any]]
MakeData = Callable[..., Path]
CONFIG = Evaluation(batch_size=1)
CHUNK = CONFIG.batch_size * BATCHES_PER_CHUNK


MODEL = Model("model", "a", 16, 7)


class HashEmbedder:
    """Vectors drawn from the bytes of an item: the same for the same item, unlike all others."""

    name, dimension = "hash", 16

    def __init__(self) -> None:
        self.encoded: list[Item] = []

    def encode(self, items: Sequence[Item]) -> Vectors:
        self.encoded += items
        return np.stack([self.vector(item) for item in items])

    def vector(self, item: Item) -> Vectors:
        image = Path(os.fspath(item.image)).read_bytes() if item.image else b""  # type: ignore[arg-type]
        content = f"{item.text}\0{item.instruction}\0".encode() + image
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
        return vector / np.linalg.norm(vector)


class TableEmbedder:
    """Vectors that the test wrote down, by text."""

    name = "table"

    def __init__(self, vectors: Mapping[str, Sequence[float]]) -> None:
        self.vectors = vectors
        self.dimension = len(next(iter(vectors.values())))

    def encode(self, items: Sequence[Item]) -> Vectors:
        return np.array([self.vectors[item.text or ""] for item in items], np.float32)


class ConstantEmbedder:
    name, dimension = "constant", 16

    def __init__(self, value: float = 0.25) -> None:
        self.value = value

    def encode(self, items: Sequence[Item]) -> Vectors:
        return np.full((len(items), self.dimension), self.value, np.float32)


def task(meta_task: str, distribution: str | None, **changes: Any) -> Task:
    """Returns a task of a benchmark's table."""
    fields: dict[str, Any] = {
        "modality": "image", "queries": 10, "candidates": 5, "metric": "hit@1", "pool": "local", "layout": "embedline",
        "prompt": "plain", "source": None,
    }  # fmt: skip
    return Task(meta_task=meta_task, distribution=distribution, **fields | changes)


def row(query: str, candidates: Sequence[str], label: Sequence[int] | None, **changes: Any) -> dict[str, Any]:
    """Returns a row of texts in the layout's columns."""
    return {
        "qry_inst": "Find it:",
        "qry_text": query,
        "qry_img_path": "",
        "tgt_inst": "",
        "tgt_text": list(candidates),
        "tgt_img_path": [""] * len(candidates),
        "label": None if label is None else list(label),
    } | changes


def write_data(data: Path, sets: Mapping[str, Rows], meta_tasks: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """Writes sets and their manifest; `meta_tasks` are (meta-task, distribution), retrieval and IND by default."""
    tasks = {}
    for name, rows in sets.items():
        write_rows(data / "eval" / f"{name}.parquet", EVAL_SCHEMA, rows)
        meta_task, distribution = (meta_tasks or {}).get(name, ("retrieval", "IND"))
        tasks[name] = EvaluationTask(
            rows=len(rows),
            candidates=max(len(row["tgt_text"]) for row in rows),
            meta_task=meta_task,  # type: ignore[arg-type]
            distribution=distribution,  # type: ignore[arg-type]
        )
    Manifest(
        name="small",
        source="table",
        licence=["CC0-1.0"],
        inputs={},
        corpus={},
        seed=0,
        tasks=Tasks(eval=tasks),
        images=len(list(data.glob("images/*"))),
        quarantined=0,
        digest=data_digest(data),
    ).write(data)
    return data


def write_images(folder: Path, names: Sequence[str]) -> None:
    """Writes an image for each name; the number at its end makes it unlike the others."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        number = int(Path(name).stem.rpartition("_")[2])
        Image.new("RGB", (4 + number, 4), (number * 8, 0, 0)).save(folder / name)


def vouch(data: Path) -> None:
    """Lets the manifest vouch for the files as they are now."""
    Manifest.read(data).model_copy(update={"digest": data_digest(data)}).write(data)


@pytest.fixture
def config() -> Evaluation:
    return CONFIG


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four sets of all meta-tasks: shared candidates, own candidates, several relevant ones, images."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    images = [f"{number}.png" for number in range(12)]
    for number, image in enumerate(images):
        Image.new("RGB", (4, 4), (number * 20, 0, 0)).save(data / "images" / image)
    generator = np.random.default_rng(0)
    words = [f"word {number}" for number in range(90)]
    with_image = {"tgt_text": [""] * 12, "tgt_img_path": images, "tgt_inst": "Represent the given image."}
    sets = {
        "Groups": [
            row("", words[:7], [number % 7], qry_img_path=image, qry_inst=None) for number, image in enumerate(images)
        ],
        "Keywords": [row(words[number], words[30:60], [number % 9, 20]) for number in range(70)],
        "Names": [row(f"name {number}", [""] * 12, [number % 12], **with_image) for number in range(65)],
        "Own": [row(words[number], list(generator.choice(words, 20, replace=False)), None) for number in range(40)],
    }
    meta_tasks = {"Groups": ("classification", "IND"), "Own": ("vqa", "OOD"), "Names": ("retrieval", "OOD")}
    return write_data(data, sets, meta_tasks)
