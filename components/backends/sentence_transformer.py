"""Any sentence-transformers model directory as an embedder: text models, dual encoders, vision-language models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from components.embedder.embedders import Vectors
from components.embedder.runtime import UnreadableImage, load_image, normalise
from components.errors import UsageError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base import BaseModel
    from torch import nn

    from components.corpus.item import ImageSource, Item

    Model = TypeVar("Model", bound=nn.Module)

Side = Literal["query", "document"]
"""Which of the two a model encodes, where it has a prompt or a network of its own for each."""


class SentenceTransformerEmbedder:
    """A sentence-transformers model, or the directory of one that runs no code of its own.

    What goes in follows the modalities that the model names (sentence-transformers 6). A model that takes text and
    image in one input gets both at once; of a dual encoder, which takes each alone, an item has the normalised sum of
    its parts' unit vectors. An item's instruction is the library's `prompt`: a chat model gets it as system message,
    every other one before the text, and there an item without text goes without.
    """

    def __init__(self, source: Path | SentenceTransformer, batch_size: int = 32, name: str = "") -> None:
        from sentence_transformers import SentenceTransformer

        self.name = name or (source.name if isinstance(source, Path) else "the model")
        self.batch_size = batch_size
        self.model = load_model(SentenceTransformer, source) if isinstance(source, Path) else source

    @cached_property
    def dimension(self) -> int:
        return self.model.get_embedding_dimension() or len(self.model.encode("dimension"))

    def encode(self, items: Sequence[Item], side: Side | None = None) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised.

        Without a side, an item that has no instruction goes under the model's default prompt, and with one under the
        model's prompt for that side. Raises `UsageError` that names the item which the model does not take.
        """
        encode = getattr(self.model, f"encode_{side}") if side else self.model.encode
        total = np.zeros((len(items), self.dimension), np.float32)
        parts = [part for row, item in enumerate(items) for part in parts_of(row, item, self.model, self.name)]
        for rows, inputs, prompt in batches(parts, self.model, self.batch_size):
            vectors = encode(inputs, prompt=prompt, batch_size=len(inputs), show_progress_bar=False)
            total[rows] += normalise(vectors)
        return normalise(total)


@dataclass(frozen=True)
class Part:
    """One input of a model: its content by modality, the row of the item that it belongs to, its prompt."""

    row: int
    content: dict[str, Any]
    prompt: str | None = None


def parts_of(row: int, item: Item, model: BaseModel, name: str) -> Iterator[Part]:
    """Yields the item whole if the model takes it so, else each modality of it. Raises `UsageError` that names the
    item which the model does not take."""
    whole = content(row, item)
    if takes(model, whole):
        contents = [whole]
    elif all(takes(model, {modality: part}) for modality, part in whole.items()):
        contents = [{modality: part} for modality, part in whole.items()]
    else:
        raise refusal(row, whole, name, model)
    for part in contents:
        if not item.instruction:
            yield Part(row, part)
        elif model.supports("message"):
            yield Part(row, part, item.instruction)
        elif part.keys() == {"text"}:
            yield Part(row, part, f"{item.instruction} ")
        else:
            yield Part(row, instructed(part, item.instruction))


def load_model(kind: type[Model], directory: Path) -> Model:
    """Returns the model, or the module, in the directory, on the accelerator if there is one.

    Raises `UsageError` if the library cannot load it, or if the model brings code of its own, which would run here.
    """
    from components.backends.without_torchvision import register_stand_ins

    register_stand_ins()
    try:
        return kind(str(directory)).eval()
    except Exception as error:  # whatever is wrong with a directory of somebody else's, the user learns it
        raise UsageError(
            f"{directory}: sentence-transformers cannot load it: {error}", "Name a model directory that it can load."
        ) from error


def content(row: int, item: Item) -> dict[str, Any]:
    """Returns what the item holds, by modality, images first as MMEB's prompts have them. Raises `UsageError` if it
    holds nothing."""
    found = {name: part for name in ("image", "text", "video") if (part := getattr(item, name))}
    if not found:
        raise UsageError(f"item {row} has neither text nor image", "Send text, an image, or both.")
    return found


def instructed(part: dict[str, Any], instruction: str | None) -> dict[str, Any]:
    """Returns the part with the instruction before its text, if it has both."""
    return part | {"text": f"{instruction} {part['text']}"} if instruction and "text" in part else part


def takes(model: BaseModel, part: dict[str, Any]) -> bool:
    """Returns whether the model takes such a part as one input."""
    modality: Any = tuple(part) if len(part) > 1 else next(iter(part))
    return model.supports(modality)


def refusal(row: int, part: dict[str, Any], name: str, model: BaseModel) -> UsageError:
    """Returns the error that says what the item is of, and what the model takes."""
    known = ", ".join("+".join([modality] if isinstance(modality, str) else modality) for modality in model.modalities)
    return UsageError(
        f"item {row} is of {' and '.join(part)}, and {name} takes {known}",
        "Choose sets that the model can read, or a model that reads them.",
    )


def batches(
    parts: Iterable[Part], model: BaseModel, batch_size: int
) -> Iterator[tuple[list[int], list[Any], str | None]]:
    """Yields the rows, the inputs and the prompt of each batch: parts of one modality, texts of like length together.

    Images are decoded when their batch comes. Raises `UsageError` that names the item whose image is unreadable.
    """
    groups: dict[tuple[tuple[str, ...], str | None], list[Part]] = {}
    for part in parts:
        groups.setdefault((tuple(part.content), part.prompt), []).append(part)
    for (_, prompt), group in groups.items():
        group.sort(key=lambda part: len(part.content.get("text", "")))
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            yield [part.row for part in batch], [_input(part, model) for part in batch], prompt


def _input(part: Part, model: BaseModel) -> Any:
    """Returns the part as the model takes it. A text goes in a dictionary, for the library takes a bare one that looks
    like the address of an image for that image; older modules, which take text alone, know no dictionaries."""
    if list(model.modalities) == ["text"]:
        return part.content["text"]
    images: dict[str, Any] = {}
    if "image" in part.content:
        images["image"] = _image(part.row, part.content["image"])
    if "video" in part.content:
        images["video"] = [_image(part.row, frame) for frame in part.content["video"]]
    return part.content | images


def _image(row: int, source: ImageSource) -> Any:
    try:
        return load_image(source)
    except UnreadableImage as error:
        where = f"{source}: " if isinstance(source, Path) else ""
        raise UsageError(f"item {row}: {where}{error}", "Name an image that can be read.") from error
