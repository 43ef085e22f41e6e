"""DVC and git: the workspace and its one writer, the stages that are up to date, the hashes, and `lineage.json`."""

from components.lineage.lineage import LINEAGE, Lineage, collect
from components.lineage.versions import (
    StageRun,
    add,
    changed_stages,
    data_hash,
    lock_digest,
    producing_runs,
    reproduce,
    unreviewed_changes,
)
from components.lineage.workspace import GitState, git_state, lock, prepare, start_repository

__all__ = [
    "LINEAGE",
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
    "prepare",
    "producing_runs",
    "reproduce",
    "start_repository",
    "unreviewed_changes",
]
