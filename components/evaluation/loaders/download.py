"""Fetching to a mirror what a set needs, where the model hub may be asked."""

from __future__ import annotations

import os
from pathlib import Path

from components.errors import EmbedlineError, UsageError
from components.evaluation.benchmark import Source, Task
from components.evaluation.loaders.frames import place_of
from components.evaluation.loaders.mirror import ARCHIVES, MEDIA, advice, published


def fetch(name: str, task: Task, mirror: Path) -> None:
    """Downloads to the mirror what the set needs and the mirror lacks; what is there is not downloaded again.

    Raises `UsageError`, saying what to download where, unless the hub is allowed (`HF_HUB_OFFLINE=0`), and
    `EmbedlineError` if the download fails.
    """
    if os.environ.get("HF_HUB_OFFLINE") != "0":
        commands = "\n".join(advice(source, mirror, patterns) for source, patterns in needed(name, task))
        raise UsageError(
            f"{name}: is not in {mirror}, and the hub is switched off", f"Set HF_HUB_OFFLINE=0 to fetch it. {commands}"
        )
    from huggingface_hub import HfApi, snapshot_download

    for source, patterns in needed(name, task):
        try:
            # Asked for a branch, snapshot_download is content with what is there already if the hub does not answer.
            commit = HfApi().dataset_info(source.repository, revision=source.revision).sha
            snapshot_download(
                source.repository, repo_type="dataset", revision=commit, allow_patterns=patterns,
                local_dir=mirror / source.repository,
            )  # fmt: skip
        except Exception as error:  # the hub's client raises errors of several libraries
            raise EmbedlineError(
                f"{name}: {source.repository} cannot be fetched: {error}", "Check the network and the revision."
            ) from error


def needed(name: str, task: Task) -> list[tuple[Source, list[str]]]:
    """Returns the repositories that hold the set, each with the patterns of the files that it takes from there."""
    source = published(name, task)
    if task.modality == "visdoc":
        return [(source, ["*.parquet"])]
    if task.modality == "video":
        frames = f"video-tasks/frames/{place_of(name).family}.tar.gz*"
        return [(source, ["*.parquet", "*.json", "*.jsonl"]), (MEDIA, [frames])]
    rows = f"{source.configuration or name}/*"
    if task.layout == "mmeb-eval":
        return [(source, [rows, ARCHIVES["eval_images"]])]
    return [(source, [rows]), (MEDIA, [ARCHIVES["image-tasks/MMEB"]])]
