"""The servers that hold versions: the one of this workspace, and any other Triton whose models others may choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from components.errors import EmbedlineError, Refused, UsageError
from components.export.bundle import TRITON_CONFIG, VERSION
from serving import control, repository
from serving.client import connect
from serving.routes import TRIAL
from serving.triton import TritonServer

ADMIN_VARIABLE = "EMBEDLINE_TRITON_HEADER"
"""Holds the header, as `NAME: VALUE`, that servers of others want before they load a model."""
NOT_ALLOWED = "not allowed"
"""What Triton says of a load when its control mode is not explicit."""
RESTRICTED = "API is restricted"

Bundles = Callable[[int], Path]
"""Fetches the bundle of a version."""


class Place(Protocol):
    """A server that holds versions of models."""

    @property
    def url(self) -> str: ...

    def loaded(self, model: str) -> list[int]:
        """Returns the versions of the model that answer, in ascending order."""

    def hold(self, model: str, versions: Sequence[int], bundles: Bundles, anew: Collection[int] = ()) -> None:
        """Makes the server hold exactly these versions of a model, without a gap for those that it holds already.

        The first one's bundle configures the model; those of `anew` are started anew. Raises `EmbedlineError`, and the
        versions before go on answering, if one cannot be loaded.
        """


@dataclass(frozen=True)
class Local:
    """The server that this workspace has started; it shares the model repository."""

    server: TritonServer

    @property
    def url(self) -> str:
        return self.server.url

    def loaded(self, model: str) -> list[int]:
        return control.loaded(self.server, model)

    def hold(self, model: str, versions: Sequence[int], bundles: Bundles, anew: Collection[int] = ()) -> None:
        folder = self.server.repository
        known = repository.versions(folder, model) if repository.read_config(folder, model) else []
        for version in reversed(versions):  # the first one's configuration is written last
            if version not in known or version in anew:
                control.deploy(self.server, bundles(version), version, model)
        if not versions:
            control.withdraw(self.server, model)
        elif self.loaded(model) != sorted(versions):
            control.serve(self.server, versions, model, anew=())
        if model == TRIAL:
            for version in set(repository.versions(folder, model)) - set(versions):
                repository.remove_version(folder, version, model)


@dataclass(frozen=True)
class Remote:
    """A Triton that others have started: it gets the files of the versions, and the configuration, with the load.

    `url` is `host:port` of its HTTP endpoint; it must run with `--model-control-mode=explicit`, and have in its Python
    environment what the bundle's `runtime.py` imports.
    """

    url: str

    @cached_property
    def headers(self) -> dict[str, str]:
        name, _, value = os.environ.get(ADMIN_VARIABLE, "").partition(":")
        return {name.strip(): value.strip()} if value else {}

    def loaded(self, model: str) -> list[int]:
        # a server's index of its repository leaves out what was uploaded
        with connect(self.url, control.LOAD_SECONDS) as client:
            if not client.is_model_ready(model):
                return []
            return sorted(int(version) for version in client.get_model_metadata(model)["versions"])

    def hold(self, model: str, versions: Sequence[int], bundles: Bundles, anew: Collection[int] = ()) -> None:
        if self.loaded(model) == sorted(versions) and not set(anew) & set(versions):
            return
        with self._client() as client:
            if not versions:
                client.unload_model(model, headers=self.headers)
                return
            text = (bundles(versions[0]) / TRITON_CONFIG).read_text(encoding="utf-8")
            config = as_json(repository.config_for(text, versions, model))
            files = {name: data for version in versions for name, data in uploaded(bundles(version), version)}
            client.load_model(model, headers=self.headers, config=config, files=files)

    @contextmanager
    def _client(self) -> Iterator[InferenceServerClient]:
        with connect(self.url, control.LOAD_SECONDS) as client:
            try:
                yield client
            except InferenceServerException as error:
                raise self._explain(error) from error

    def _explain(self, error: InferenceServerException) -> EmbedlineError:
        message = str(error.message())
        if NOT_ALLOWED in message:
            return Refused(
                f"the Triton at {self.url} does not let others choose what it loads: {message}",
                "Start it with `--model-control-mode=explicit`.",
            )
        if RESTRICTED in message:
            return Refused(
                f"the Triton at {self.url} wants a header before it says or does anything about models: {message}",
                f"Give it as NAME: VALUE in the environment variable {ADMIN_VARIABLE}.",
            )
        return EmbedlineError(
            f"the Triton at {self.url} cannot load it: {message}",
            "See its log. It needs the packages that the bundle's runtime.py imports, and room for the upload "
            "(--http-max-input-size).",
        )


def places(home: Path, urls: Sequence[str]) -> list[Place]:
    """Returns the server of this workspace, if it runs, and those at `urls`, each once. Raises `UsageError` if there is
    none at all or a URL is none."""
    server = TritonServer.find(home)
    own: list[Place] = [Local(server)] if server else []
    others = dict.fromkeys(address(url) for url in urls)
    found = own + [Remote(url) for url in others if server is None or url != server.url]
    if not found:
        raise UsageError(
            "no server runs here, and serving.servers names none", "Start one with `embedline serve`, or name a URL."
        )
    return found


def address(url: str) -> str:
    """Returns `host:port` of a URL. Raises `UsageError` if it is none, or not over HTTP."""
    host, _, port = url.removeprefix("http://").removesuffix("/").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"{url}: is no address of a Triton", "Write it as http://HOST:PORT, its HTTP endpoint.")
    return f"{host}:{port}"


def uploaded(bundle: Path, version: int) -> list[tuple[str, bytes]]:
    """Returns the files of a version as `load_model` takes them."""
    folder = bundle / VERSION
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [(f"file:{version}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in files]


def as_json(config: str) -> str:
    """Returns the text of a `config.pbtxt` as the JSON that `load_model` takes."""
    parsed = text_format.Parse(config, model_config_pb2.ModelConfig())
    return str(json_format.MessageToJson(parsed, preserving_proto_field_name=True))
