"""Image-text pairs from a Hugging Face data set: a directory of `save_to_disk`, a folder of Parquet, or a hub name.

A hub name is streamed if the hub may be reached (`HF_HUB_OFFLINE=0`), and else read from the local cache.
`corpus.columns` names the two columns, for instance `{image: photo, text: caption}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.corpus.config import PairSettings
from components.corpus.images import MAX_IMAGE_BYTES
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import ImageText, build_pairs
from components.corpus.quarantine import Quarantine
from components.corpus.tables import file_pairs, require_columns
from components.errors import EmbedlineError, UsageError
from components.files import folder_sha256

if TYPE_CHECKING:
    import datasets


SAVED_TO_DISK = ("dataset_dict.json", "state.json")


class Settings(PairSettings):
    source: Literal["dataset"]


def inputs(config: Settings) -> dict[str, Input]:
    """Returns the hash of the directory, or the revision of the hub's data set, which stands for its bytes."""
    location = config.location
    if Path(location).is_dir():
        return {Path(location).name: Input(version="", sha256=folder_sha256(Path(location)))}
    return {location: Input(version=hub_builder(location).hash or "", sha256="")}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes the pairs of the data set to `directory`, in both directions."""
    folder = Path(config.location)
    return build_pairs(config, directory, quarantine, pairs(config), folder)


def pairs(config: Settings) -> Iterator[ImageText]:
    """Yields the rows of all splits as they are, unchecked; which of them are held out is decided by `build_pairs`."""
    location = config.location
    folder = Path(location)
    if not folder.is_dir():
        yield from split_pairs(hub_splits(location), config.columns)
    elif any((folder / name).is_file() for name in SAVED_TO_DISK):
        import datasets

        loaded = datasets.load_from_disk(folder)
        yield from split_pairs(loaded if isinstance(loaded, dict) else {folder.name: loaded}, config.columns)
    else:
        if not (files := sorted(folder.rglob("*.parquet"))):
            raise UsageError(
                f"corpus.location: {folder} holds no data set",
                "It needs the files of `save_to_disk` (dataset_dict.json or state.json), or *.parquet.",
            )
        for file in files:
            yield from file_pairs(file, file.relative_to(folder).as_posix(), config.columns)


def split_pairs(splits: dict[str, Any], columns: dict[str, str]) -> Iterator[ImageText]:
    """Yields the rows of `datasets` objects, images as the bytes that they were stored with."""
    import datasets

    image, text = columns.get("image", "image"), columns.get("text", "text")
    for name in sorted(splits):
        rows: Iterable[dict[str, Any]] = splits[name]
        for column, feature in (splits[name].features or {}).items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))  # type: ignore[attr-defined]
        for number, row in enumerate(rows):
            if number == 0:
                require_columns(name, (image, text), row)
            yield ImageText(name, number, fetched(row[image]), row[text])


def fetched(image: Any) -> Any:
    """Returns the bytes of an image that a streamed data set only points to, and any other value as it is."""
    if isinstance(image, dict) and not image.get("bytes") and str(image.get("path")).startswith("hf://"):
        import fsspec

        with fsspec.open(image["path"], "rb") as stream:
            return stream.read(MAX_IMAGE_BYTES + 1)
    return image


def hub_splits(name: str) -> dict[str, Any]:
    import datasets

    builder = hub_builder(name)
    if not datasets.config.HF_HUB_OFFLINE:
        return dict(builder.as_streaming_dataset())
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def hub_builder(name: str) -> datasets.DatasetBuilder:
    """Raises `UsageError` if the data set is neither here nor may be fetched, `EmbedlineError` if fetching fails."""
    import datasets

    try:
        return datasets.load_dataset_builder(name)
    except (OSError, ValueError) as error:
        if datasets.config.HF_HUB_OFFLINE:
            raise UsageError(
                f"corpus.location: {name} is no local directory and not in the cache of the hub, which is switched off",
                "Correct the path, or set HF_HUB_OFFLINE=0 in the environment to fetch it from the hub.",
            ) from error
        raise EmbedlineError(f"{name} cannot be fetched: {error}", "Check the name and the network.") from error
