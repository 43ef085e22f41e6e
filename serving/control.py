"""Which versions a running server serves: changed under traffic, proved by real answers, undone if they are wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from tritonclient.utils import InferenceServerException

from components.errors import EmbedlineError, UsageError
from components.export import read_examples
from serving import known_answers, repository
from serving.client import TritonEmbedder, connect
from serving.environment import add_openvino, needs_openvino, prepare
from serving.repository import MODEL
from serving.triton import TritonServer

LOAD_SECONDS = 300
MINIMUM_COSINE = 0.999


def serve(
    server: TritonServer, versions: Sequence[int], model: str = MODEL, anew: Collection[int] | None = None
) -> None:
    """Makes the server serve exactly these deployed versions, without a gap for those that it serves already.

    A version of `anew` (by default every one) is started anew, which heals one whose process has died. Raises
    `EmbedlineError` if a version cannot be loaded; what was served before goes on then, and stays configured.
    """
    before = repository.read_config(server.repository, model)
    if before is None:
        raise UsageError("nothing was ever deployed here", "deploy a version first: `embedline run`")
    repository.write_config(server.repository, before, versions, model)
    try:
        load(server, model, anew)
    except EmbedlineError:
        repository.restore_config(server.repository, before, model)
        raise


def withdraw(server: TritonServer, model: str) -> None:
    """Makes the server serve no version of the model any more."""
    repository.restore_config(server.repository, None, model)
    load(server, model)


def deploy(server: TritonServer, bundle: Path, version: int, model: str = MODEL) -> list[int]:
    """Serves the bundle as `version` next to the versions that are served already; returns all that are then served.

    The new version has answered the bundle's examples as expected before this returns. Raises `EmbedlineError` if it
    cannot be loaded or answers otherwise; then the old versions go on as before and a new folder is removed.
    Deploying a version again starts it anew and checks it again.
    """
    before = repository.served(server.repository, model)
    old_config = repository.read_config(server.repository, model)
    is_new = repository.add_version(server.repository, bundle, version, model)
    try:
        known_answers.keep(server.repository, bundle, version)
        config = (bundle / repository.CONFIG).read_text(encoding="utf-8")
        repository.write_config(server.repository, config, [*before, version], model)
        load(server, model, [version])
        probe(server.url, bundle, version, model)
    except BaseException as error:
        repository.restore_config(server.repository, old_config, model)
        with suppress(EmbedlineError):  # the first error is the one to tell
            load(server, model, [])
        if is_new:
            repository.remove_version(server.repository, version, model)
        if not isinstance(error, EmbedlineError):
            raise
        kept = f"served as before: {', '.join(map(str, before)) or 'nothing'}"
        raise EmbedlineError(f"version {version} was not deployed ({kept}): {error.problem}", error.remedy) from error
    return sorted({*before, version})


def load(server: TritonServer, model: str = MODEL, anew: Collection[int] | None = None) -> None:
    """Makes the server follow the repository's configuration; nothing of the model is served if there is none.

    OpenVINO is installed before a version is loaded that needs it. A version of `anew` (by default every one) is
    started anew: Triton by itself does so with what has changed, not with what has died.
    """
    for version in repository.served(server.repository, model):
        folder = server.repository / model / str(version)
        if needs_openvino(folder):
            add_openvino(prepare(server.repository))
        if anew is None or version in anew:
            (folder / "model.py").touch()
    with connect(server.url, LOAD_SECONDS) as client:
        try:
            if repository.read_config(server.repository, model) is None:
                client.unload_model(model, headers=server.admin_headers)
            else:
                client.load_model(model, headers=server.admin_headers)
        except InferenceServerException as error:
            raise EmbedlineError(f"Triton cannot load it: {error.message()}", f"see its log: {server.log}") from error


def loaded(server: TritonServer, model: str = MODEL) -> list[int]:
    """Returns the versions of the model that the server says it answers by, in ascending order."""
    with connect(server.url, LOAD_SECONDS) as client:
        index = client.get_model_repository_index(headers=server.admin_headers)
    return sorted(int(entry["version"]) for entry in index if (entry["name"], entry.get("state")) == (model, "READY"))


def probe(url: str, bundle: Path, version: int, model: str = MODEL) -> float:
    """Returns the smallest cosine between the bundle's expected vectors and the answers of the served version.

    Raises `EmbedlineError` if it is below `MINIMUM_COSINE` or the version does not answer: being ready is no proof.
    """
    examples, expected = read_examples(bundle)
    answers = TritonEmbedder(url, model, version).encode(examples)
    if answers.shape != expected.shape:
        raise EmbedlineError(f"version {version} answers {answers.shape}, not {expected.shape}", "package it again")
    cosine = least_cosine(answers, expected)
    if not cosine >= MINIMUM_COSINE:
        raise EmbedlineError(
            f"version {version} answers other vectors than its bundle expects: cosine {cosine:.4f} < {MINIMUM_COSINE}",
            "the served runtime differs from the one that was scored: package the model again",
        )
    return cosine


def least_cosine(answers: np.ndarray, expected: np.ndarray) -> float:
    """Returns the smallest cosine between corresponding rows of two arrays, `(n, dimension)` each, n at least 1."""
    lengths = np.linalg.norm(answers, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((answers * expected).sum(axis=1) / lengths).min())
