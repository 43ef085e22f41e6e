"""Serving a champion by a container: the model repository in the wanted layout, and the command that serves it."""

from __future__ import annotations

from pathlib import Path

from components.export.config import Serving
from components.export.layouts import Layout, write_repository
from components.registry import models, tracking
from components.workspace import ONNX
from serving.environment import container_command
from serving.roles import served_versions

FOLDER = "container"


def print_container(home: Path, config: Serving, layout: Layout | None) -> str:
    """Returns the docker command that serves the champion.

    Without a layout it serves the versions that the server of this workspace has, by the python backend. With one, the
    champion's bundle is laid out in `.embedline/container/LAYOUT` first. Raises `UsageError` before the first promotion
    and if the layout cannot serve the champion.
    """
    if layout is None:
        return container_command(home / "model_repository", config.response_cache_bytes)
    tracked = tracking.prepare(Path())
    version = served_versions(models.roles(tracked))[0]
    bundle = models.download(tracked, str(version), home / "fetched")
    repository = home / FOLDER / layout
    repository.parent.mkdir(parents=True, exist_ok=True)
    write_repository(bundle, version, layout, repository, ONNX / "tensorrt")
    return container_command(repository, config.response_cache_bytes)
