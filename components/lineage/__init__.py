"""DVC and git: the workspace and its one writer, the stages that are up to date, the hashes, and `lineage.json`."""

from components.lineage.lineage import LINEAGE, Lineage, collect
from components.lineage.plan import Planned, Reason, changed_values, plan
from components.lineage.remote import pull, push
from components.lineage.versions import (
    LOCK_FILE,
    StageRun,
    add,
    changed_stages,
    data_hash,
    lock_digest,
    locked_stages,
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
    "Planned",
    "Reason",
    "StageRun",
    "add",
    "changed_stages",
    "changed_values",
    "collect",
    "data_hash",
    "git_state",
    "lock",
    "lock_digest",
    "locked_stages",
    "outputs",
    "plan",
    "prepare",
    "producing_runs",
    "pull",
    "push",
    "reproduce",
    "start_repository",
    "uncommitted",
    "unreviewed_changes",
]
