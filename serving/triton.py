"""A real Triton Inference Server as one process of this machine: started, tested, found again, stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from components.errors import EmbedlineError
from serving.client import connect
from serving.environment import Environment, prepare
from serving.tether import clear_leftovers

HOST = "127.0.0.1"
EXIT_SECONDS = 5
TETHER = Path(__file__).with_name("tether.py")
SELF_TEST = Path(__file__).with_name("self_test_repository")
ADMIN_HEADER = "embedline-key"
ADMIN_INTERFACES = ("model-repository", "shared-memory", "trace", "logging")


@dataclass(frozen=True)
class TritonServer:
    """A Triton process and its addresses. As a context manager it stops the process at the end.

    It ends with the process that started it, even if that one is killed (`tether.py`).

    It listens on the loopback only, and its administrative interfaces want `admin_headers`, so that no web page that
    is open on this machine can load a model of its own.
    """

    home: str
    pid: int
    born: int
    http_port: int
    grpc_port: int
    metrics_port: int
    started: str
    admin_key: str = field(repr=False)
    tested: bool = False

    @property
    def url(self) -> str:
        return f"{HOST}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{HOST}:{self.metrics_port}/metrics"

    @property
    def admin_headers(self) -> dict[str, str]:
        return {ADMIN_HEADER: self.admin_key}

    @property
    def repository(self) -> Path:
        return Path(self.home) / "model_repository"

    @property
    def log(self) -> Path:
        return Path(self.home) / "triton.log"

    @property
    def is_running(self) -> bool:
        """Whether the process lives and is this server, not another one that was given its number."""
        return process_birth(self.pid) == self.born

    @classmethod
    def start(
        cls,
        home: Path,
        http_port: int = 8000,
        grpc_port: int = 8001,
        metrics_port: int = 8002,
        startup_seconds: float = 60,
        environment: Environment | None = None,
        cache_bytes: int = 0,
    ) -> Self:
        """Returns a server that passed its self-test and serves no model yet; port 0 takes any free one.

        Of `cache_bytes`, 0 for none, it keeps answers of models whose configuration asks for it.

        `home` (`.embedline`) gets `model_repository/`, `triton.log` and `triton.json`, by which `find` finds the
        server. Raises `EmbedlineError` if one runs there already, a port is in use, the server does not get ready in
        `startup_seconds`, or it reads wrong values.
        """
        home = home.resolve()
        environment = environment or prepare(home / "model_repository")
        (home / "model_repository").mkdir(parents=True, exist_ok=True)
        try:
            with start_lock(home).acquire(startup_seconds):
                if left := read_state(home):
                    if left.tested:
                        raise EmbedlineError(
                            f"a Triton server runs already: process {left.pid}, {left.url}", "use it, or stop it first"
                        )
                    left.stop()  # whoever started it was killed before it was tested
                ports = choose_ports({"HTTP": http_port, "gRPC": grpc_port, "metrics": metrics_port})
                server = cls._launch(home, environment, cache_bytes, *ports)
                try:
                    server._wait_ready(startup_seconds)
                    server._self_test()
                except BaseException:
                    server.stop()
                    raise
                server = replace(server, tested=True)
                server._write_state()
                return server
        except Timeout as error:
            raise EmbedlineError(f"another start of a Triton server is under way in {home}", "wait for it") from error

    @classmethod
    def find(cls, home: Path) -> TritonServer | None:
        """Returns the running server of `home`, or None; the state that a dead one left is cleared away."""
        server = read_state(home.resolve())
        return server if server and server.tested else None

    def stop(self) -> None:
        """Ends the server: asked first, killed after `EXIT_SECONDS` and some grace. Nothing happens if it has ended."""
        for sign, seconds in ((signal.SIGTERM, EXIT_SECONDS + 5), (signal.SIGKILL, 5)):
            if not self.is_running:
                break
            os.kill(self.pid, sign)
            deadline = time.monotonic() + seconds
            while self.is_running and time.monotonic() < deadline:
                time.sleep(0.05)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        read_state(Path(self.home))  # which clears away what this server left, but not what belongs to a later one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @classmethod
    def _launch(
        cls,
        home: Path,
        environment: Environment,
        cache_bytes: int,
        http_port: int,
        grpc_port: int,
        metrics_port: int,
    ) -> Self:
        now = datetime.now(UTC).isoformat("T", "seconds")
        server = cls(str(home), 0, 0, http_port, grpc_port, metrics_port, now, admin_key=secrets.token_hex(16))
        region = f"{memory_prefix(home)}{secrets.token_hex(4)}_"
        command = [
            *(str(environment.python), "-I", "-S", str(TETHER), region),
            str(environment.server),
            f"--model-repository={server.repository}",
            f"--model-repository={SELF_TEST}",
            f"--backend-directory={environment.backends}",
            f"--backend-config=python,shm-region-prefix-name={region}",
            "--model-control-mode=explicit",
            "--load-model=self_test",
            f"--http-address={HOST}",
            f"--http-port={http_port}",
            f"--http-restricted-api={','.join(ADMIN_INTERFACES)}:{ADMIN_HEADER}={server.admin_key}",
            f"--grpc-address={HOST}",
            f"--grpc-port={grpc_port}",
            f"--grpc-restricted-protocol={','.join(ADMIN_INTERFACES)}:{ADMIN_HEADER}={server.admin_key}",
            "--allow-metrics=true",
            f"--metrics-address={HOST}",
            f"--metrics-port={metrics_port}",
            f"--exit-timeout-secs={EXIT_SECONDS}",
            *cache_options(environment, cache_bytes),
        ]
        if server.log.exists():
            server.log.replace(server.log.with_suffix(".previous.log"))
        reading, _ = os.pipe()  # its other end is never closed: it closes when this process ends
        with server.log.open("ab") as log:  # appending, so that it can be emptied while Triton writes
            process = subprocess.Popen(
                command,
                env=environment.variables(),
                stdin=reading,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, which then stops the server
            )
        os.close(reading)
        process.returncode = 0  # it outlives this object, and `stop` waits for it by its number
        server = replace(server, pid=process.pid, born=process_birth(process.pid) or 0)
        server._write_state()
        return server

    def _wait_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.is_running:
                raise EmbedlineError(f"the Triton server ended at start-up: {self._last_error()}", self._see_log)
            with suppress(EmbedlineError), connect(self.url, timeout_seconds=1) as client:
                if client.is_server_ready():
                    return
            time.sleep(0.05)
        raise EmbedlineError(
            f"the Triton server was not ready after {seconds:g} s: {self._last_error()}",
            f"raise serving.startup_seconds, or see its log: {self.log}",
        )

    @property
    def _see_log(self) -> str:
        return f"see its log: {self.log}"

    def _last_error(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if re.match(r"E\d|error", line)]
        return (errors or lines or ["it wrote nothing"])[-1]

    def _self_test(self) -> None:
        """Sends known values through a model that sends them back, kind by kind, then unloads it."""
        try:
            with connect(self.url, timeout_seconds=30) as client:
                for name, sent in KNOWN_VALUES.items():
                    outputs = [InferRequestedOutput(f"{name}_SEEN")]
                    seen = client.infer("self_test", [as_input(name, sent)], outputs=outputs).as_numpy(f"{name}_SEEN")
                    if not np.array_equal(seen, sent):
                        raise ValueError(f"it was sent {sent.tolist()} and saw {seen.tolist()}")
                client.unload_model("self_test", headers=self.admin_headers)
        except (InferenceServerException, ValueError) as error:
            raise EmbedlineError(
                f"the Triton server does not read values right: {error}",
                "its environment was changed, perhaps to NumPy 2: remove ~/.cache/embedline and start again; "
                + self._see_log,
            ) from error

    def _write_state(self) -> None:
        path = state_path(Path(self.home))
        partial = path.with_suffix(".partial")
        partial.touch(mode=0o600)  # it holds the key
        partial.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        partial.replace(path)


KNOWN_VALUES: dict[str, np.ndarray[Any, Any]] = {
    "FLOATS": np.array([1.5, -2.25, 3.125, 1e-20], np.float32),
    "INTEGERS": np.array([1, 2, -3, 2**40], np.int64),
    "STRINGS": np.array([b"sad cat", "\N{CAT FACE} größer".encode(), b"", b"\x89PNG\x00\xff"], object),
}


def cache_options(environment: Environment, cache_bytes: int) -> list[str]:
    if not cache_bytes:
        return []
    return [f"--cache-directory={environment.caches}", f"--cache-config=local,size={cache_bytes}"]


def as_input(name: str, values: np.ndarray[Any, Any]) -> InferInput:
    tensor = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    return tensor


def process_birth(pid: int) -> int | None:
    """Returns when the living process started, in clock ticks since the machine did: pid and birth name one process,
    also after its number went to another. None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def state_path(home: Path) -> Path:
    return home / "triton.json"


def start_lock(home: Path) -> FileLock:
    """Returns the lock that a start holds in `home`; whoever has it may take it once more."""
    return FileLock(home / "triton.lock", is_singleton=True)


def read_state(home: Path) -> TritonServer | None:
    """Returns the living server that the state file names, tested or not; clears away what a dead one left, unless the
    next one is being started, which does so itself."""
    server = stated(home)
    if server is None or server.is_running:
        return server
    with suppress(Timeout), start_lock(home).acquire(0):
        if stated(home) == server:
            clear_leftovers(memory_prefix(home))
            state_path(home).unlink(missing_ok=True)
    return None


def stated(home: Path) -> TritonServer | None:
    """Returns the server that the state file names, dead or alive."""
    path = state_path(home)
    try:
        return TritonServer(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EmbedlineError(
            f"{path} is not a server's state: {error}", "remove it, and stop the server if it runs"
        ) from error


def memory_prefix(home: Path) -> str:
    """Returns how the names of the shared memory of this home's server begin; one server at a time runs in a home."""
    return f"embedline_{hashlib.sha256(bytes(home)).hexdigest()[:16]}_"


def choose_ports(wanted: dict[str, int]) -> list[int]:
    """Returns the wanted ports, a free one for each 0. Raises `EmbedlineError` if one is in use."""
    sockets = []
    try:
        for use, port in wanted.items():
            listener = socket.socket()
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
                listener.listen()
            except OSError as error:
                raise EmbedlineError(
                    f"port {port}, wanted for Triton's {use} endpoint, is in use",
                    f"stop the program that uses it, or set serving.{use.lower()}_port to another (0: any free port)",
                ) from error
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
