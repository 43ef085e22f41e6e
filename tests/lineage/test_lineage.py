import dataclasses
import json
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
