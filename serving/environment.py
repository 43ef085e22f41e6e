"""The server's own small environment: the Triton binary, its python backend, and what a bundle needs to answer."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from components.errors import EmbedlineError
from components.workspace import STATE

REQUIREMENTS = Path(__file__).with_name("triton-requirements.txt")
OPENVINO_REQUIREMENTS = Path(__file__).with_name("triton-openvino-requirements.txt")
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-py3"
MINIMUM_GLIBC = (2, 35)
PYTHON_VERSIONS = ((3, 11), (3, 12))  # NumPy 1.26, which the server needs, has wheels up to 3.12


@dataclass(frozen=True)
class Environment:
    """Where the parts of an installed server lie."""

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    @property
    def packages(self) -> Path:
        return self.home / "lib" / f"python{python_version()}" / "site-packages"

    @property
    def server(self) -> Path:
        return self.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.packages / "pytriton" / "tritonserver" / "backends"

    @property
    def caches(self) -> Path:
        return self.packages / "pytriton" / "tritonserver" / "caches"

    @property
    def openvino(self) -> Path:
        """What `add_openvino` installs, where it was needed; models find it when they are loaded."""
        return self.home / "openvino"

    def variables(self) -> dict[str, str]:
        """Returns the server's whole process environment: nothing of the caller's, so that neither its Python path
        nor its secrets reach the models."""
        libraries = (self.packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
        return {
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(str(folder) for folder in libraries if folder),
            "LANG": "C.UTF-8",
            "HOME": str(Path.home()),
            "PYTHONPATH": str(self.openvino),
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # a new file in a version folder would make Triton load that version again
        }


def prepare(repository: Path = STATE / "model_repository") -> Environment:
    """Returns the environment, made at the first call (about ten seconds) and shared by all workspaces of a user.

    It lies in `~/.cache/embedline`, or in the folder that `EMBEDLINE_TRITON_HOME` names. Raises `EmbedlineError` where
    Triton cannot run, with the container that serves `repository` there, and where the packages cannot be installed.
    """
    if reason := obstacle():
        raise EmbedlineError(
            f"the embedded Triton server cannot run here: {reason}",
            f"serve the same models with the container {CONTAINER}:\n  {container_command(repository)}",
        )
    parent = Path(os.environ.get("EMBEDLINE_TRITON_HOME", "~/.cache/embedline")).expanduser().resolve()
    environment = Environment(parent / f"triton-{digest()}")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{environment.home}.lock", timeout=600):
            if not environment.home.exists():
                install(environment.home)
    except OSError as error:
        raise EmbedlineError(
            f"the environment of the Triton server cannot be made in {parent}: {error}",
            "free 400 MB there, or name another folder in EMBEDLINE_TRITON_HOME",
        ) from error
    return environment


def needs_openvino(folder: Path) -> bool:
    """Returns whether a graph in or below the folder is one of OpenVINO."""
    return any(folder.rglob("*.xml"))


def add_openvino(environment: Environment) -> None:
    """Installs OpenVINO, which only its own graphs need, at the first call. Raises `EmbedlineError` if it cannot be."""
    with FileLock(f"{environment.home}.lock", timeout=600):
        if not environment.openvino.exists():
            partial = environment.openvino.with_suffix(".partial")
            pip_install(OPENVINO_REQUIREMENTS, partial, "--target", str(partial))
            partial.rename(environment.openvino)


def container_command(repository: Path, cache_bytes: int = 0) -> str:
    """Returns the docker command that serves `repository` on the default ports of this machine's loopback.

    It may be of any of the layouts in `components/export/layouts.py`. Of `cache_bytes`, 0 for none, Triton keeps
    answers.
    """
    configs = {file.parent.name: file.read_text(encoding="utf-8") for file in repository.glob("*/config.pbtxt")}
    models = ["embedder", *sorted(name for name in configs if name.endswith("_tower"))]
    needed = [*pins(REQUIREMENTS), *(pins(OPENVINO_REQUIREMENTS) if needs_openvino(repository) else [])]
    packages = " ".join(pin for pin in needed if not pin.startswith("nvidia-pytriton"))
    ports = " ".join(f"-p 127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002))
    load = " ".join(f"--load-model={model}" for model in models)
    cache = f" --cache-config=local,size={cache_bytes}" if cache_bytes else ""
    serve = f"tritonserver --model-repository=/models --model-control-mode=explicit {load}{cache}"
    gpus = " --gpus=all" if any("KIND_GPU" in config for config in configs.values()) else ""
    return (
        f"docker run --rm --shm-size=1g{gpus} {ports} -v {repository.resolve()}:/models:ro {CONTAINER} "
        f'sh -c "pip install {packages} && exec {serve}"'
    )


def obstacle() -> str | None:
    """Returns why the server's binary cannot run on this machine, or None if it can."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"it is built for Linux on x86_64, and this is {platform.system()} on {platform.machine()}"
    library, glibc = platform.libc_ver()
    if library != "glibc" or tuple(map(int, glibc.split("."))) < MINIMUM_GLIBC:
        return f"it needs glibc 2.35 or newer, and this system has {library or 'another C library'} {glibc}".rstrip()
    if sys.version_info[:2] not in PYTHON_VERSIONS:
        return f"it needs Python 3.11 or 3.12, and this is {python_version()}"
    shared = f"libpython{python_version()}.so.1.0"
    if not Path(sysconfig.get_config_var("LIBDIR") or "", shared).exists() and not is_loadable(shared):
        return f"it needs {shared}, which this Python lacks (on Debian: apt install libpython{python_version()})"
    return None


def is_loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def install(home: Path) -> None:
    """Makes the environment under a temporary name and renames it, so that `home` is whole whenever it exists."""
    partial = home.with_name(f".{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    venv.create(partial)
    made = Environment(partial)
    pip_install(REQUIREMENTS, partial, python=made.python)
    stub = "triton_python_backend_stub"
    (made.backends / "python" / stub).symlink_to(f"../../python_backend_stubs/{python_version()}/{stub}")
    partial.rename(home)


def pip_install(requirements: Path, partial: Path, *options: str, python: Path | None = None) -> None:
    """Installs what a file pins; if that fails, removes `partial` and raises `EmbedlineError` with pip's reason."""
    pip = [sys.executable, "-m", "pip", *(("--python", str(python)) if python else ()), "install", "--quiet"]
    pinned = ["--no-deps", "--only-binary=:all:", "-r", str(requirements)]
    done = subprocess.run([*pip, *options, *pinned], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise EmbedlineError(
            f"pip cannot install the Triton server: {last_line(done.stderr)}",
            f"check the network and pip's settings, then try: pip download --no-deps -r {requirements}",
        )


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"


def pins(requirements: Path) -> list[str]:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def digest() -> str:
    """Returns what tells environments apart: the pins and the interpreter that they are installed for."""
    return hashlib.sha256("\n".join([*pins(REQUIREMENTS), sys.version, sys.base_prefix]).encode()).hexdigest()[:12]


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
