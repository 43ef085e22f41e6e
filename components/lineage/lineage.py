"""`lineage.json`: every identity of one round in one file, from the commit to the version that answers requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.files import write_text
from components.lineage.versions import data_hash, lock_digest, producing_runs
from components.lineage.workspace import git_state

LINEAGE = "lineage.json"


@dataclass(frozen=True)
class Lineage:
    """What made a model version, and where it is. `stage_runs` names the runs that made the present outputs."""

    git_commit: str | None
    git_dirty: bool
    data_hash: str
    dvc_lock_sha256: str | None
    parameters: Mapping[str, Any]
    flow_run: str | None
    round_run: str
    stage_runs: Mapping[str, str]
    score_fingerprint: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    triton_version: str | None = None

    def write(self, path: Path) -> None:
        """Writes the file as a whole or not at all."""
        write_text(path, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def collect(root: Path, parameters: Mapping[str, Any], round_run: str, flow_run: str | None = None) -> Lineage:
    """Returns what is known once the stages are done; `dataclasses.replace` adds the version when there is one."""
    state = git_state(root)
    return Lineage(
        state.commit,
        state.dirty,
        data_hash(root),
        lock_digest(root),
        parameters,
        flow_run,
        round_run,
        producing_runs(root),
    )
