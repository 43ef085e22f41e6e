"""Our embedder as an mteb model, which runs MIEB, ViDoRe and mteb's other tasks of texts and images.

mteb loads the data, asks for vectors and computes the scores. What it lets pass is an error here: vectors that are no
numbers, one vector for all items, and offline a data set of another revision than the task names.

Source: Muennighoff et al., MTEB: Massive Text Embedding Benchmark (2022); Xiao et al., MIEB (2025).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.corpus import Item
from components.embedder import Embedder, Vectors
from components.embedder.runtime import UnreadableImage, load_image
from components.errors import EmbedlineError, UsageError
from components.evaluation.scoring import normalised
from components.evaluation.vectors import vectors_key
from components.files import atomic_directory

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.results import TaskResult
    from mteb.types import Array, BatchedInput, PromptType
    from torch.utils.data import DataLoader

MODALITIES = {"text", "image"}
CHUNK = 64
SAME = 2.0**-20
"""Two vectors that differ by no more in any coordinate are one: the make-up of a batch does as much."""
DISTINCT_AT_LEAST = {"Compositionality": 0.99}
"""Which share of the different items must have a vector of its own, where mteb lets the true caption win every tie."""
LISTED_ONLINE = ("top_ranked", "instruction")
"""Configurations that mteb reads only if the hub lists them: the candidates and the instruction of each query."""

Report = Callable[[str, int, int], None]
"""Takes a task, how many of the items at hand are encoded, and how many these are."""


def evaluate_with_mteb(
    embedder: Embedder, name: str, fingerprint: str, task_names: Sequence[str], output: Path, report: Report
) -> dict[str, float]:
    """Returns the main score of each task, as mteb defines it; its results lie below `output`, one folder a task.

    A task that is there already, of the same model, code and version of mteb, is not run again. Raises `UsageError` if
    mteb is not installed, has no such task, or the task is not of texts and images; `EmbedlineError` if its data set is
    not on this machine, or if the vectors give no score.
    """
    # mteb makes this folder as it is imported, and would make it in the user's home
    os.environ.setdefault("MTEB_CACHE", str(output))
    tasks = [_find(task_name) for task_name in task_names]
    model = MtebModel(embedder, name, fingerprint, report)
    return {task.metadata.name: run_task(model, task, output).get_score() for task in tasks}


def run_task(model: MtebModel, task: AbsTask, output: Path) -> TaskResult:
    """Returns mteb's result of the task, read from its folder below `output`, where it is put unless it is there."""
    from mteb import ResultCache
    from mteb.results import TaskResult

    folder = output / f"{task.metadata.name}-{model.key[:16]}"
    if not folder.is_dir():
        result = _computed(model, task, output)
        if not math.isfinite(result.get_score()):
            raise EmbedlineError(
                f"{model.name}: {task.metadata.name}: the score is not a number", "Look at the vectors of its items."
            )
        with atomic_directory(folder) as partial:
            ResultCache(partial).save_to_cache(result, model.mteb_model_meta)
    return TaskResult.from_disk(ResultCache(folder).get_task_result_path(task.metadata.name, model.mteb_model_meta))


class MtebModel:
    """Any embedder behind mteb's `EncoderProtocol`.

    An item's instruction is the prompt that the task states for its side, and then the query's own if it has one.
    """

    def __init__(self, embedder: Embedder, name: str, fingerprint: str, report: Report) -> None:
        import mteb
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        self.embedder, self.name, self.report = embedder, name, report
        identity = f"{vectors_key(type(embedder), fingerprint)} {name} {mteb.__version__}".encode()
        self.key = hashlib.sha256(identity + Path(__file__).read_bytes()).hexdigest()
        self.mteb_model_meta = ModelMeta(
            loader=None,
            name=name if "/" in name else f"local/{name}",
            revision=fingerprint,
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=None,
            embed_dim=embedder.dimension,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=[],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=True,
            training_datasets=None,
            modalities=["text", "image"],
        )

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised; identical items are encoded once.

        Raises `EmbedlineError` naming model, task and row if an item is broken or its vector is zero or not finite, and
        naming model and task if different items do not have different vectors.
        """
        where = f"{self.name}: {task_metadata.name} ({hf_split}, {hf_subset}), {prompt_type or 'input'}"
        total = len(inputs.dataset)  # type: ignore[arg-type]
        rows: list[int] = []
        known: dict[bytes, int] = {}

        def different() -> Iterator[tuple[str, Item]]:
            prompt = _prompt(task_metadata, prompt_type)
            for found in chain.from_iterable(_items(batch, prompt, prompt_type) for batch in inputs):
                place = f"{where} {len(rows)}"
                item = _readable(found, place)
                key = _identity(item)
                if key not in known:
                    known[key] = len(known)
                    yield place, item
                rows.append(known[key])

        chunks, source = [], different()
        while chunk := list(islice(source, CHUNK)):
            chunks.append(self._vectors(chunk, prompt_type))
            self.report(task_metadata.name, len(rows), total)
        vectors = np.concatenate(chunks)
        _require_distinct(vectors, DISTINCT_AT_LEAST.get(task_metadata.type, 0), where)
        self.report(task_metadata.name, total, total)
        return np.asarray(vectors[rows])

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Returns the cosines `(n, m)` of all pairs."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Returns the cosines `(n,)` of the pairs."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    def _vectors(self, chunk: Sequence[tuple[str, Item]], prompt_type: PromptType | None) -> Vectors:
        places, items = zip(*chunk, strict=True)
        if prompt_type and isinstance(self.embedder, SentenceTransformerEmbedder):
            vectors = self.embedder.encode(items, prompt_type.value)
        else:
            vectors = self.embedder.encode(items)
        if np.shape(vectors) != (len(items), self.embedder.dimension):
            raise EmbedlineError(
                f"{places[0]}: {len(items)} items gave vectors of shape {np.shape(vectors)}",
                "No score is given. The embedder must return one vector an item.",
            )
        return normalised(vectors, places.__getitem__)


def _find(name: str) -> AbsTask:
    try:
        import mteb
    except ImportError as error:
        raise UsageError("mteb is not installed", "Install it with: pip install 'embedline[mteb]'") from error
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise UsageError(f"mteb:{name}: {error.args[0].removeprefix('KeyError: ')}", "Name a task of mteb.") from error
    if others := sorted({*task.metadata.modalities} - MODALITIES):
        raise UsageError(f"mteb:{name} is of {' and '.join(others)}", "Name a task of texts and images.")
    return task


def _computed(model: MtebModel, task: AbsTask, output: Path) -> TaskResult:
    import mteb
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    if isinstance(task, AbsTaskAggregate):
        return task.combine_task_results([run_task(model, part, output) for part in task.tasks])
    _load(task)
    results = mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"batch_size": CHUNK, "show_progress_bar": False},
    )
    task.unload_data()
    return results.task_results[0]


def _load(task: AbsTask) -> None:
    """Raises `EmbedlineError` if the task's data set is not on this machine as the task names it."""
    from datasets import config

    name, source = task.metadata.name, task.metadata.dataset
    try:
        task.load_data()
    except Exception as error:  # whatever the task's own code raises, the error names the data set
        raise EmbedlineError(
            f"{name}: its data set {source['path']}, revision {source['revision']}, cannot be read: {error}",
            f"HF_HUB_OFFLINE=0 downloads it where there is a network. Run this there, and copy {_cache()} here.",
        ) from error
    if config.HF_HUB_OFFLINE:
        _require_as_online(name, source["path"], source["revision"])


def _require_as_online(name: str, repository: str, revision: str) -> None:
    """Raises `EmbedlineError` if what `datasets` has read offline is not what it reads online.

    Offline it takes the latest that it keeps, of whatever revision, and lists no configurations, without which mteb
    leaves out what some tasks are about.
    """
    from datasets.naming import camelcase_to_snakecase

    *organisation, repository_name = repository.split("/")
    kept = _cache() / "___".join([*organisation, camelcase_to_snakecase(repository_name)])
    revisions = sorted({folder.name for folder in kept.glob("*/*/*") if folder.is_dir()})
    if revision != "main" and not all(found.startswith(revision) for found in revisions):
        raise EmbedlineError(
            f"{name}: {kept} holds revision {', '.join(revisions)}, and the task is of {revision}",
            "Remove the others. HF_HUB_OFFLINE=0 downloads what is missing where there is a network.",
        )
    if unlisted := sorted(folder.name for folder in kept.glob("*") if folder.name.endswith(LISTED_ONLINE)):
        raise EmbedlineError(
            f"{name}: mteb does not find {', '.join(unlisted)} of {repository} offline",
            "Run it with HF_HUB_OFFLINE=0 where there is a network.",
        )


def _cache() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)


def _prompt(task: TaskMetadata, prompt_type: PromptType | None) -> str | None:
    """Returns what the task states for the side; what it states for none is the query's, as is every item without."""
    stated: Mapping[str, Any] = task.prompt if isinstance(task.prompt, dict) else {"query": task.prompt}
    return stated.get(prompt_type.value if prompt_type else "query")


def _items(batch: Mapping[str, Any], prompt: str | None, prompt_type: PromptType | None) -> Iterator[Item]:
    """Yields a batch as items. The `text` of a query has its instruction in it, which `query` has not."""
    none = [None] * len(next(iter(batch.values())))
    texts, images, instructions = batch.get("text", none), batch.get("image", none), none
    if prompt_type and prompt_type.value == "query":
        texts, instructions = batch.get("query", texts), batch.get("instruction", none)
    for text, image, instruction in zip(texts, images, instructions, strict=True):
        # an empty text is part of some sets; a blank one is its equal to a tokenizer, and no item without content
        shown = " " if text == "" and image is None else text
        yield Item(shown, image, instruction=" ".join(filter(None, (prompt, instruction))) or None)


def _readable(item: Item, place: str) -> Item:
    """Returns the item with its image decoded. Raises `EmbedlineError` if it has no content that can be read."""
    if item.is_empty:
        raise EmbedlineError(f"{place}: has neither text nor image", "Get the task's data set again.")
    try:
        return replace(item, image=load_image(item.image)) if item.image else item
    except UnreadableImage as error:
        raise EmbedlineError(f"{place}: {error}", "Get the task's data set again.") from error


def _identity(item: Item) -> bytes:
    digest = hashlib.sha256(repr((item.text, item.instruction)).encode())
    if isinstance(item.image, Image.Image):
        digest.update(repr(item.image.size).encode() + item.image.tobytes())
    return digest.digest()


def _require_distinct(vectors: Vectors, share: float, where: str) -> None:
    """Raises `EmbedlineError` if all different items have one vector, or fewer than `share` have their own."""
    line = np.random.default_rng(0).normal(size=vectors.shape[1])
    ordered = vectors[np.argsort(vectors @ line)]
    distinct = 1 + int((np.abs(np.diff(ordered, axis=0)).max(axis=1) > SAME).sum())
    if len(vectors) > 1 and (distinct == 1 or distinct < share * len(vectors)):
        raise EmbedlineError(
            f"{where}: {len(vectors)} different items have {distinct} different vectors",
            "No score is given: mteb would decide the ties by place or name. Look at the model's weights.",
        )
