"""A version made again: its commit, its data and its parameters, the whole line anew, and what came out different."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components import lineage
from components.errors import UsageError
from components.lineage import worktree
from components.lineage.plan import PIPELINE
from components.lineage.versions import dvc, inputs
from components.registry import ancestry, models
from components.registry.tracking import Tracking
from components.workspace import RUNS, SCORES

APART = {"MLFLOW_TRACKING_URI": "", "MLFLOW_RUN_ID": ""}
"""The stages log to a database of the folder that they run in, never to the registry."""


@dataclass(frozen=True)
class Reproduction:
    """`artifacts` says of each output whether its bytes are those of the version, `inputs` names the files that the
    stages read and that were not as then; `scores` holds, by score file and metric, the value then and now."""

    version: str
    commit: str
    dirty: bool
    inputs: tuple[str, ...]
    artifacts: Mapping[str, bool]
    scores: Mapping[str, Mapping[str, tuple[float, float]]]

    @property
    def equal(self) -> bool:
        return all(self.artifacts.values()) and not self.inputs


def reproduce(
    root: Path, tracked: Tracking, version: str, into: Path, tell: Callable[[str], object] = lambda line: None
) -> Reproduction:
    """Repeats the round that made a version in the new folder `into`; deploys nothing and registers nothing.

    Raises `UsageError` if the round has kept no commit or no lock file, `EmbedlineError` if a stage fails.
    """
    models.facts(tracked, version)
    made_by = models.round_of(tracked, version)
    tags = tracked.client.get_run(made_by).data.tags
    commit, dirty = tags.get("git_commit", "none"), tags.get("git_dirty") == "true"
    kept = {each.path for each in tracked.client.list_artifacts(made_by)}
    if commit == "none" or lineage.LOCK_FILE not in kept or (dirty and ancestry.DIFFERENCE not in kept):
        raise UsageError(f"the round of version {version} has not kept what it was made from", "It cannot be repeated.")
    with tempfile.TemporaryDirectory() as folder:
        fetched = {
            name: Path(tracked.client.download_artifacts(made_by, name, folder))
            for name in (lineage.LOCK_FILE, ancestry.DIFFERENCE)
            if name in kept
        }
        difference = fetched[ancestry.DIFFERENCE] if dirty else None
        with worktree.checked_out(root, commit, difference, fetched[lineage.LOCK_FILE], into) as workspace:
            then, read_then = lineage.outputs(workspace), hashes(workspace)
            scores_then = old_scores(workspace, then)
            repeat(workspace, tell)
            now, read_now = lineage.outputs(workspace), hashes(workspace)
            return Reproduction(
                version,
                commit,
                dirty,
                tuple(sorted(path for path in read_then | read_now if read_then.get(path) != read_now.get(path))),
                {path: now.get(path) == value for path, value in then.items() if not Path(path).is_relative_to(RUNS)},
                compared(scores_then, read_scores(workspace / SCORES)),
            )


def repeat(workspace: Path, tell: Callable[[str], object]) -> None:
    """Runs every stage of the workspace's own line by its own code, whatever DVC has cached."""
    code = os.pathsep.join(filter(None, (str(workspace), os.environ.get("PYTHONPATH"))))
    for stage in yaml.safe_load((workspace / PIPELINE).read_text(encoding="utf-8"))["stages"]:
        tell(f"stage {stage}")
        lineage.reproduce(workspace, stage, {**APART, "PYTHONPATH": code}, tell, anew=True)


def hashes(workspace: Path) -> dict[str, str]:
    """Returns the hash of each file that stages read and none made."""
    return {path: str(entry["md5"]) for path, entry in inputs(workspace).items()}


def old_scores(workspace: Path, outputs: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Returns the scores of the version, as far as DVC still has them."""
    if str(SCORES) not in outputs:
        return {}
    dvc(workspace, "checkout", "--quiet", "--allow-missing", str(SCORES))
    found = read_scores(workspace / SCORES)
    shutil.rmtree(workspace / SCORES, ignore_errors=True)
    return found


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Returns the aggregates of every score file of a folder, whichever code has written it."""
    files: list[tuple[str, Any]] = [
        (file.stem, json.loads(file.read_text(encoding="utf-8"))) for file in sorted(folder.glob("*.json"))
    ]
    return {name: content["aggregates"] for name, content in files}


def compared(
    then: Mapping[str, Mapping[str, float]], now: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Returns both values of what is in both, by file and metric."""
    return {
        name: {metric: (value, now[name][metric]) for metric, value in values.items() if metric in now[name]}
        for name, values in then.items()
        if name in now
    }
