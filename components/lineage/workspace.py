"""The workspace: a folder with `params.yaml` and `dvc.yaml`, under git and DVC, with one writer at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from components.errors import EmbedlineError, UsageError
from components.files import write_text
from components.workspace import STATE

LOCK, HOLDER = STATE / "lock", STATE / "holder.json"
IGNORED_BY_DVC = ("__pycache__/", "*.pyc")
DVC_SETTINGS = {"analytics": False, "check_update": False}
NOT_CODE = tuple(f":(exclude){name}" for name in ("data", "artifacts", "checkpoints", ".venv"))
WRITTEN_BY_ROUNDS = tuple(f":(exclude){name}" for name in ("*dvc.lock", "*.dvc", "*.gitignore", "*ledger.jsonl"))

KEPT_OF_A_FILE = "1m"


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out (`None` before the first), and whether files differ from it."""

    commit: str | None
    dirty: bool


def prepare(root: Path) -> list[str]:
    """Makes `root`, in a git repository, a DVC workspace where it is none yet. Returns what it did, in words.

    Raises `UsageError` if no repository with a commit holds it, and `EmbedlineError` if git or DVC cannot.
    """
    _hide_state(root)
    if not _has_commit(root):
        raise UsageError(
            f"{root.resolve()}: no git repository with a commit: lineage names the commit that a model was made from",
            "Run `git init && git add . && git commit`, or let `embedline run --git` (or `embedline ingest --git`)\n"
            "do it: it says how many files it commits, and leaves out data, artifacts and what .gitignore names.",
        )
    return _prepare_dvc(root)


def start_repository(root: Path, say: Callable[[str], None]) -> None:
    """Makes `root` a git and DVC workspace with a first commit unless it has one; says before what it commits.

    Raises `EmbedlineError` if git or DVC cannot.
    """
    _hide_state(root)
    if _has_commit(root):
        return
    if not _is_in_git(root):
        git(root, "init", "--quiet")
    _prepare_dvc(root)
    git(root, "add", "--all", "--", ".", *NOT_CODE)
    count = len(git(root, "diff", "--cached", "--name-only").splitlines())
    say(f"git: this folder gets its first commit, of {count} files (`git ls-files` lists them)")
    author = ("-c", "user.name=embedline", "-c", "user.email=embedline@localhost")
    git(root, *author, "commit", "--quiet", "--no-verify", "--no-gpg-sign", "--message", "Start of the workspace")


def git_state(root: Path) -> GitState:
    """Returns the state of the code. What DVC records by hash (`dvc.lock`, `*.dvc`, artifacts) makes it no dirtier,
    nor does the mirror of the ledger."""
    changes = git(root, "status", "--porcelain", "--", ".", *NOT_CODE, *WRITTEN_BY_ROUNDS)
    return GitState(_commit(root), bool(changes.strip()))


def uncommitted(root: Path) -> bytes:
    """Returns how the code differs from its commit, new files included, as `git apply` takes it.

    Of a file above `KEPT_OF_A_FILE` there is its name alone. The index and the repository stay as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        index, new = Path(folder, "index"), Path(folder, "new")
        shutil.copyfile(root / git(root, "rev-parse", "--git-path", "index").strip(), index)
        code = ("--", ".", *NOT_CODE, *WRITTEN_BY_ROUNDS)
        listed = git(root, "ls-files", "--others", "--exclude-standard", "-z", *code)
        new.write_bytes(listed.encode(errors="surrogateescape"))
        apart = {"GIT_INDEX_FILE": str(index)}
        named = (f"--pathspec-from-file={new}", "--pathspec-file-nul")
        git(root, "--literal-pathspecs", "add", "--intent-to-add", *named, environment=apart)
        settings = ("-c", f"core.bigFileThreshold={KEPT_OF_A_FILE}", "diff", "--no-ext-diff", "--no-color", "HEAD")
        return git(root, *settings, *code, environment=apart).encode(errors="surrogateescape")


@contextmanager
def lock(root: Path, timeout: float = 0) -> Iterator[None]:
    """Holds the workspace for this process; waits at most `timeout` seconds for another to let go.

    The operating system frees the lock when its holder ends, however that is. Raises `UsageError`, naming the holder.
    """
    try:
        held = FileLock(root / LOCK).acquire(timeout)
    except Timeout:
        raise _held(root) from None
    with held:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(root / HOLDER, json.dumps({"pid": os.getpid(), "since": since}))
        try:
            yield
        finally:
            (root / HOLDER).unlink(missing_ok=True)  # `embedline reset` has deleted it


def _held(root: Path) -> UsageError:
    who, remedy = "another process has just begun to write to it", "Wait until it has ended."
    with suppress(FileNotFoundError):
        holder = json.loads((root / HOLDER).read_text(encoding="utf-8"))
        if psutil.pid_exists(holder["pid"]):  # one that was killed has left its number there
            who = f"process {holder['pid']} has been writing to it since {holder['since']}"
            remedy = f"Wait until it has ended, or stop it with `kill {holder['pid']}`; finished stages are kept."
    return UsageError(f"{root}: one run at a time: {who}", remedy)


def _hide_state(root: Path) -> None:
    (root / STATE).mkdir(exist_ok=True)
    (root / STATE / ".gitignore").write_text("*\n", encoding="utf-8")


def _commit(root: Path) -> str | None:
    head = _run(["git", "rev-parse", "--verify", "HEAD"], root)
    return head.stdout.strip() if head.returncode == 0 else None


def _has_commit(root: Path) -> bool:
    return _is_in_git(root) and _commit(root) is not None


def _is_in_git(root: Path) -> bool:
    found = _run(["git", "rev-parse", "--git-dir"], root)
    if found.returncode and "not a git repository" not in found.stderr:
        raise EmbedlineError(f"{root}: git: {found.stderr.strip()}", "Do what git says, then run again.")
    return found.returncode == 0


def _prepare_dvc(root: Path) -> list[str]:
    done = []
    if not (root / ".dvc" / "config").is_file():
        nested = [] if (root / ".git").exists() else ["--subdir"]
        _checked([sys.executable, "-m", "dvc", "init", "--quiet", "--force", *nested], root)
        done.append(f"{root} is now a DVC workspace: DVC versions its data and artifacts")
    _configure_dvc(root)
    return done


def _configure_dvc(root: Path) -> None:
    """Switches DVC's telemetry off and keeps Python's caches out of the hashes."""
    from dvc.config import Config

    with Config(str(root / ".dvc")).edit("repo", validate=False) as settings:
        if any(settings.get("core", {}).get(name) != value for name, value in DVC_SETTINGS.items()):
            settings.setdefault("core", {}).update(DVC_SETTINGS)
    path = root / ".dvcignore"
    present = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if missing := [pattern for pattern in IGNORED_BY_DVC if pattern not in present]:
        path.write_text("\n".join([*present, *missing]) + "\n", encoding="utf-8")


def git(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns what git says. Raises `EmbedlineError`, with git's own words, if it cannot."""
    return _checked(["git", *arguments], root, environment)


def _checked(command: list[str], root: Path, environment: Mapping[str, str] | None = None) -> str:
    finished = _run(command, root, environment)
    if finished.returncode:
        raise EmbedlineError(f"{root}: `{' '.join(command)}` failed: {finished.stderr.strip()}", "Do what it says.")
    return finished.stdout


def _run(
    command: list[str], root: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, **(environment or {})}
    try:
        return subprocess.run(
            command, cwd=root, env=everything, capture_output=True, encoding="utf-8", errors="surrogateescape"
        )
    except FileNotFoundError as error:
        raise EmbedlineError(f"{command[0]} is not installed", f"Install {command[0]}, then run again.") from error
