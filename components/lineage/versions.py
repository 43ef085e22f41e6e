"""What DVC knows: which stages are up to date, which bytes made which bytes; and how a stage is run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import yaml

from components.errors import DataInvalid, EmbedlineError, Refused, UsageError
from components.workspace import STATE

TETHER = Path(__file__).with_name("tether.py")
LOCK_FILE = "dvc.lock"
KEPT_LINES = 1000
PATIENCE_SECONDS = 10
DYING_SECONDS = 2
SHELL_SIGNAL_BASE = 128
ANEW = ("--force", "--no-run-cache", "--no-commit")
KINDS: dict[int, type[EmbedlineError]] = {kind.exit_code: kind for kind in (UsageError, Refused, DataInvalid)}


@dataclass(frozen=True)
class StageRun:
    """`ran` is false where DVC found the outputs up to date or in its cache; `output` holds the last 1,000 lines."""

    ran: bool
    output: str
    log: Path


def reproduce(
    root: Path,
    stage: str,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str], object] = lambda line: None,
    anew: bool = False,
) -> StageRun:
    """Brings one stage up to date; each line of its output goes to `tell` and to the log file at once.

    `anew` runs it though DVC may know its outputs, and keeps them out of DVC's cache.
    A failed stage raises the kind of `EmbedlineError` that its exit code stands for, with the stage's own words.
    """
    _forget_killed_runs(root)
    log = root / STATE / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    process = subprocess.Popen(
        [sys.executable, "-P", str(TETHER), "repro", "--single-item", *(ANEW if anew else ()), stage],
        cwd=root,
        env=_environment(environment or {}),
        start_new_session=True,
        text=True,
        errors="replace",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                lines.append(line)
                file.write(line)
                file.flush()
                tell(line.rstrip("\n"))
        process.wait()
    finally:
        _end(process)
    output = "".join(lines)
    if process.returncode:
        raise _failure(stage, output, log)
    return StageRun(f"Running stage '{stage}'" in output, output, log)


def changed_stages(root: Path) -> dict[str, Any]:
    """Returns what DVC finds changed, by stage (and by `data.dvc`); empty where everything is up to date."""
    changes: dict[str, Any] = json.loads(dvc(root, "status", "--json"))
    return changes


def unreviewed_changes(root: Path, path: str = "data") -> dict[str, list[str]]:
    """Returns changes under `path` that nobody has added, by kind (`modified`, ...); `dvc repro` would accept them."""
    found = json.loads(dvc(root, "data", "status", "--json")).get("uncommitted", {})
    under = {
        kind: [name for name in names if f"{name.rstrip('/')}/".startswith(f"{path}/")] for kind, names in found.items()
    }
    return {kind: names for kind, names in under.items() if names}


def add(root: Path, path: str = "data") -> str:
    """Makes the present content of `path` the version that the line depends on. Returns its DVC hash."""
    dvc(root, "add", "--quiet", path)
    return data_hash(root, path)


def data_hash(root: Path, path: str = "data") -> str:
    """Returns the hash in `PATH.dvc`. Raises `UsageError` if the data set was never added."""
    try:
        content = yaml.safe_load((root / f"{path}.dvc").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{root / path}.dvc is missing", "Build the data set with `embedline ingest`.") from error
    return str(content["outs"][0]["md5"])


def lock_digest(root: Path) -> str | None:
    """Returns the SHA-256 of `dvc.lock`, or `None` before the first stage has finished."""
    path = root / LOCK_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def outputs(root: Path) -> dict[str, str]:
    """Returns the DVC hash of each output that `dvc.lock` names, by its path."""
    return {path: str(out["md5"]) for path, out in _locked(root, "outs").items()}


def inputs(root: Path) -> dict[str, dict[str, Any]]:
    """Returns what `dvc.lock` says of each path that stages depend on and none makes: its hash, its size."""
    made = outputs(root)
    return {path: entry for path, entry in _locked(root, "deps").items() if path not in made}


def locked_stages(root: Path) -> Mapping[str, Any]:
    """Returns the stages of `dvc.lock`, none where there is no such file."""
    path = root / LOCK_FILE
    stages: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    return stages


def _locked(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    return {
        entry["path"]: entry
        for stage in locked_stages(root).values()
        for entry in stage.get(kind, ())
        if "md5" in entry
    }


def producing_runs(root: Path) -> dict[str, str]:
    """Returns the MLflow run that made the present outputs, by stage."""
    files = sorted((root / "artifacts" / "runs").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8"))["run_id"] for file in files}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The stages run `python` of this very environment, whatever the caller's PATH says."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join((here, os.environ.get("PATH", os.defpath)))
    return {**os.environ, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **extra, "PATH": path}


def dvc(root: Path, *arguments: str) -> str:
    """Returns what DVC says. Raises `EmbedlineError`, with DVC's own words, if it cannot."""
    command = [sys.executable, "-m", "dvc", *arguments]
    finished = subprocess.run(command, cwd=root, env=_environment({}), capture_output=True, text=True)
    if finished.returncode:
        complaint = finished.stderr.strip().removeprefix("ERROR: ")
        raise EmbedlineError(f"dvc {' '.join(arguments)}: {complaint}", "Correct what DVC names, then run again.")
    return finished.stdout


def _forget_killed_runs(root: Path) -> None:
    """Removes DVC's list of readers and writers where a kill left it torn, or with nobody on it who lives.

    DVC itself takes a dead process for a live one until its parent has collected it, and cannot read a torn list. A run
    of ours that was killed is given a moment to end.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    deadline = time.monotonic() + DYING_SECONDS
    while path.is_file():
        try:
            holders = _holders(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:
            holders = {}
        alive = [command for pid, command in holders.items() if _lives(pid, path.stat().st_mtime)]
        if not alive:
            path.unlink()
        elif time.monotonic() > deadline or any(TETHER.name not in command for command in alive):
            return
        else:
            time.sleep(0.05)


def _holders(listed: Mapping[str, Any]) -> dict[int, str]:
    """Returns the command of each process on DVC's list."""
    readers = chain.from_iterable(listed.get("read", {}).values())
    return {int(holder["pid"]): holder["cmd"] for holder in chain(readers, listed.get("write", {}).values())}


def _lives(pid: int, since: float) -> bool:
    """Whether the process that had this number at the time `since` still runs."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since)
    except psutil.NoSuchProcess:
        return False


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the stage if it still runs: asks it first, so that it can mark its run as failed, then insists."""
    for request in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            break
        try:
            os.killpg(process.pid, request)
            process.wait(PATIENCE_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _failure(stage: str, output: str, log: Path) -> EmbedlineError:
    codes = re.findall(r"exited with (-?\d+)", output)
    code = int(codes[-1]) if codes else None
    kind = KINDS.get(code or 1, EmbedlineError)
    own_words = re.findall(r"^embedline: (.+)\n((?:[ \t]+\S.*\n)*)", output, re.MULTILINE)
    if own_words:
        problem, remedy = own_words[-1]
        return kind(f"stage {stage}: {problem}", f"{remedy.strip()}\nIts log: {log}".strip())
    if code is not None and not 0 < code <= SHELL_SIGNAL_BASE:
        number = -code if code < 0 else code - SHELL_SIGNAL_BASE
        remedy = "If it was not you who stopped it, the machine may have run out of memory."
        return EmbedlineError(f"stage {stage} was ended by signal {number}", f"{remedy} Run again. Its log: {log}")
    complaints = [line for line in output.splitlines() if line.strip()]
    complaint = "\n".join(complaints[-12:])
    return kind(f"stage {stage} failed:\n{complaint}", f"The whole output: {log}")
