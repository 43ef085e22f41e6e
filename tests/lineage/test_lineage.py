import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from components import lineage

pytestmark = pytest.mark.system("git")


def test_lineage_joins_the_identities_of_a_round(workspace: Path) -> None:
    lineage.reproduce(workspace, "first")
    facts = lineage.collect(workspace, {"first": {"steps": 1}}, round_run="round-run", flow_run="flow-run")
    assert facts.git_commit and len(facts.git_commit) == 40 and not facts.git_dirty
    assert facts.data_hash == lineage.data_hash(workspace) and facts.dvc_lock_sha256 == lineage.lock_digest(workspace)
    assert facts.stage_runs == {"first": "run-of-first"}
    path = workspace / lineage.LINEAGE
    dataclasses.replace(facts, model_version="7", triton_version="7").write(path)
    written = json.loads(path.read_text())
    assert written["model_version"] == written["triton_version"] == "7"
    assert written["parameters"] == {"first": {"steps": 1}} and written["round_run"] == "round-run"
    assert not list(workspace.glob(".*.partial"))


def test_the_hash_of_every_output_is_that_of_dvc(workspace: Path) -> None:
    assert lineage.outputs(workspace) == {}
    lineage.reproduce(workspace, "first")
    content = (workspace / "artifacts" / "first").read_bytes()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert lineage.outputs(workspace)["artifacts/first"] == digest


def test_the_difference_from_the_commit_brings_the_code_back(workspace: Path, tmp_path: Path) -> None:
    def git(*arguments: str, root: Path = workspace) -> str:
        return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout

    assert lineage.uncommitted(workspace) == b""
    (workspace / "first.py").write_bytes("# Größe\nprint()\n".encode("latin-1"))
    (workspace / "new.py").write_text("new\n")
    (workspace / "large.csv").write_text("1,2,3\n" * 300_000)
    git("rm", "--quiet", "params.yaml")
    (workspace / "data" / "rows.txt").write_text("DVC's, not git's")
    before = git("status", "--porcelain")
    difference = lineage.uncommitted(workspace)
    assert git("status", "--porcelain") == before, "the index stays as it is"
    assert len(difference) < 10_000 and b"large.csv" in difference and b"rows.txt" not in difference
    git("clone", "--quiet", str(workspace), str(tmp_path / "again"))
    files = [part for part in difference.split(b"diff --git ") if b"large.csv" not in part]
    (tmp_path / "kept.diff").write_bytes(b"diff --git ".join(files))
    git("apply", str(tmp_path / "kept.diff"), root=tmp_path / "again")
    for name in ("first.py", "new.py"):
        assert (tmp_path / "again" / name).read_bytes() == (workspace / name).read_bytes()
    assert not (tmp_path / "again" / "params.yaml").exists()
