import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from components import lineage
from components.errors import UsageError

pytestmark = pytest.mark.system("git")

REPOSITORY = Path(__file__).parents[2]
HOLDER = """
import pathlib, sys, time
from components import lineage
with lineage.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(root: Path) -> subprocess.Popen[str]:
    """Starts another process that holds the lock."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def repository(root: Path) -> str:
    """Makes a repository with a commit and returns its hash."""
    git(root, "init", "--quiet")
    git(root, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "--message", "t")
    return git(root, "rev-parse", "HEAD").strip()


def test_a_plain_folder_becomes_a_repository_on_request_and_says_before_what_it_commits(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("first: {steps: 1}\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_text("not for git")
    said = []

    def hear(line: str) -> None:
        assert lineage.git_state(tmp_path).commit is None, "it says so before it commits"
        said.append(line)

    lineage.start_repository(tmp_path, hear)
    committed = git(tmp_path, "ls-files").split()
    assert "params.yaml" in committed and ".dvc/config" in committed
    assert not [name for name in committed if name.startswith(("data", ".embedline"))]
    assert "analytics = False" in (tmp_path / ".dvc" / "config").read_text()
    assert "__pycache__/" in (tmp_path / ".dvcignore").read_text()
    assert len(said) == 1 and f"of {len(committed)} files" in said[0]
    assert lineage.git_state(tmp_path).dirty is False
    assert lineage.prepare(tmp_path) == []
    lineage.start_repository(tmp_path, hear)
    assert len(said) == 1 and git(tmp_path, "rev-list", "--count", "HEAD") == "1\n"


@pytest.mark.parametrize("is_repository", [False, True])
def test_without_a_commit_nothing_is_prepared_and_the_ways_to_one_are_named(
    is_repository: bool, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("first: {steps: 1}\n")
    if is_repository:
        git(tmp_path, "init", "--quiet")
    with pytest.raises(UsageError, match="no git repository with a commit") as refusal:
        lineage.prepare(tmp_path)
    assert "git init && git add . && git commit" in refusal.value.remedy
    assert "embedline run --git" in refusal.value.remedy
    assert (tmp_path / ".git").exists() == is_repository and not (tmp_path / ".dvc").exists()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    assert git(tmp_path, "ls-files") == "params.yaml\n", "what a user adds then is nothing of ours"
    lineage.start_repository(tmp_path, print)
    assert lineage.prepare(tmp_path) == []


def test_an_existing_repository_is_kept_as_it_is(tmp_path: Path) -> None:
    commit = repository(tmp_path)
    (tmp_path / ".dvcignore").write_text("mine/")
    lineage.start_repository(tmp_path, pytest.fail)
    lineage.prepare(tmp_path)
    state = lineage.git_state(tmp_path)
    assert state.commit == commit and state.dirty
    assert (tmp_path / ".dvcignore").read_text().startswith("mine/\n")


def test_a_folder_inside_a_repository_becomes_a_workspace_of_its_own(tmp_path: Path) -> None:
    repository(tmp_path)
    (tmp_path / "inside").mkdir()
    lineage.prepare(tmp_path / "inside")
    assert (tmp_path / "inside" / ".dvc").is_dir() and not (tmp_path / "inside" / ".git").exists()


def test_only_code_and_settings_make_a_workspace_dirty(workspace: Path) -> None:
    lineage.reproduce(workspace, "first")
    assert lineage.git_state(workspace).dirty is False
    (workspace / "params.yaml").write_text("first: {steps: 2}\n")
    assert lineage.git_state(workspace).dirty is True


def test_a_second_writer_is_refused_with_the_first_one_s_process_number(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    try:
        with (
            pytest.raises(UsageError, match=f"process {holder.pid} .* since 20") as refusal,
            lineage.lock(tmp_path, 0.3),
        ):
            pass
        assert f"kill {holder.pid}" in refusal.value.remedy
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert str(holder.pid) in (tmp_path / ".embedline" / "holder.json").read_text(), "left by the one that was killed"
    begun = pytest.raises(UsageError, match="another process has just begun")
    with FileLock(tmp_path / ".embedline" / "lock"), begun, lineage.lock(tmp_path):
        pass
    with lineage.lock(tmp_path):
        assert json.loads((tmp_path / ".embedline" / "holder.json").read_text())["pid"] == os.getpid()
    with lineage.lock(tmp_path):
        pass
