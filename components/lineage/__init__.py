"""DVC and git: the workspace and its one writer, the stages that are up to date, the hashes, and `lineage.json`."""

from components.lineage.lineage import LINEAGE, Lineage, collect
from components.lineage.versions import (
    LOCK_FILE,
    StageRun,
    add,
    changed_stages,
    data_hash,
    lock_digest,
    outputs,
    producing_runs,
    reproduce,
    unreviewed_changes,
)
from components.lineage.workspace import GitState, git_state, lock, prepare, start_repository, uncommitted

__all__ = [
    "LINEAGE",
    "LOCK_FILE",
    "GitState",
    "Lineage",
    "StageRun",
    "add",
    "changed_stages",
    "collect",
    "data_hash",
    "git_state",
    "lock",
    "lock_digest",
    "outputs",
    "prepare",
    "producing_runs",
    "reproduce",
    "start_repository",
    "uncommitted",
    "unreviewed_changes",
]
