"""Triton as the supervisor keeps it: asked a question with a known answer, loaded again, restarted on its ports."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from pathlib import Path

from components.corpus import Item
from components.errors import EmbedlineError, UsageError
from components.export.config import Serving
from components.registry import models
from components.registry.tracking import Tracking
from serving import control, known_answers, repository
from serving.client import TritonEmbedder, connect
from serving.releases.canary import watch_canary
from serving.roles import follow_roles, serve_versions, served_versions
from serving.triton import TritonServer

PROBE_TIMEOUT_SECONDS = 60
"""As long as a client waits: before that, a server that has much to do is not dead."""
LEAST_COSINE = 0.99
"""Another model, or numbers that were read wrongly, are far below it. The 0.999 of a deployment would be too strict: an
example shares its batch with whatever else is asked at that moment, and some variants' vectors depend on the batch."""


class TritonProcess:
    """The one server of `home`. It is this object's own: a server that another command started is never touched."""

    name = "triton"

    def __init__(self, home: Path, config: Serving, tracked: Tracking) -> None:
        self.home = home
        self.config = config
        self.tracked = tracked
        self.server: TritonServer | None = None
        self.version: int | None = None
        """The champion when it was last asked."""
        self.asked = 0
        self.reloadable = True

    @property
    def running(self) -> TritonServer:
        """Returns the server that was started last, dead or alive."""
        if self.server is None:
            raise EmbedlineError("Triton was never started")
        return self.server

    @property
    def log(self) -> Path:
        return self.running.log

    @property
    def is_running(self) -> bool:
        return self.running.is_running

    def start(self) -> None:
        """Starts it on the configured ports with the versions that play a role, and asks the champion. Raises as
        `TritonServer.start`, `serve_versions`, `served_versions` and `probe` do."""
        served_versions(models.roles(self.tracked))  # before anything is started
        self.server = self._start_server(self.config.http_port, self.config.grpc_port, self.config.metrics_port)
        serve_versions(self.server, self.tracked)
        self.probe()

    def _start_server(self, http_port: int, grpc_port: int, metrics_port: int) -> TritonServer:
        ports = http_port, grpc_port, metrics_port
        cache = self.config.response_cache_bytes
        return TritonServer.start(self.home, *ports, self.config.startup_seconds, cache_bytes=cache)

    def champion(self) -> int:
        """Returns the version that answers clients which name none, the highest that is loaded: another command may
        have changed it just now. Raises `EmbedlineError` if there is none."""
        with connect(self.running.url, PROBE_TIMEOUT_SECONDS) as client:
            index = client.get_model_repository_index(headers=self.running.admin_headers)
        ready = [entry for entry in index if entry["name"] == repository.MODEL and entry.get("state") == "READY"]
        if not ready:
            raise EmbedlineError("no version is loaded", f"see its log: {self.log}")
        return max(int(entry["version"]) for entry in ready)

    def probe(self) -> None:
        """Asks the champion one of its bundle's examples, another one each time.

        The second item of the request was never sent before, so that no response cache can answer. Raises
        `EmbedlineError` unless the vector is the one that the bundle has recorded. A canary that does not answer as its
        bundle says is sent back.
        """
        try:
            self._ask()
            with suppress(UsageError):  # before the first deployment there are no routes
                watch_canary(self.home, self.running.url)
        except EmbedlineError as error:
            self.reloadable = not isinstance(error.__cause__, TimeoutError)  # what hangs would not let go of the model
            raise

    def _ask(self) -> None:
        version = self.version = self.champion()
        examples, expected = known_answers.read(self.running.repository, version)
        row = self.asked % len(examples)
        self.asked += 1
        embedder = TritonEmbedder(self.running.url, repository.MODEL, version, PROBE_TIMEOUT_SECONDS)
        answer = embedder.encode([examples[row], Item(text=secrets.token_hex(8))])[:1]
        known = expected[row : row + 1]
        cosine = control.least_cosine(answer, known) if answer.shape == known.shape else -1.0
        if not cosine >= LEAST_COSINE:
            raise EmbedlineError(
                f"version {version} answers example {row} with another vector than its bundle records: "
                f"cosine {cosine:.4f} < {LEAST_COSINE}",
                "package the model again, or go back: `embedline rollback`",
            )

    def reload(self) -> None:
        """Starts the model processes anew, in the versions that the repository's configuration names."""
        control.load(self.running)

    def restart(self) -> None:
        """Starts Triton again on the same ports with the versions that it served; no registry is needed for that."""
        before = self.running
        before.stop()
        self.server = self._start_server(before.http_port, before.grpc_port, before.metrics_port)
        control.load(self.server)
        try:
            follow_roles(self.home, self.tracked)  # a promotion while Triton was down
        except Exception:  # the registry may be down too, which does not keep the champion from answering
            logging.getLogger(__name__).exception("the roles could not be looked up")

    def stop(self) -> None:
        if self.server:
            self.server.stop()
