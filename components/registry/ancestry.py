"""What a version, a data set, a run, a commit or an artifact was made from, and what was made from it.

Everything comes from MLflow's runs and versions, which `read` reads once, and from the verified ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run as MlflowRun
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from components.errors import UsageError
from components.registry import history, models
from components.registry.ledger import Entry
from components.registry.tracking import Tracking, runs

DIFFERENCE = "uncommitted.diff"
"""The artifact of a round that holds how its code differed from the commit."""
OUTPUT = "outs/"
SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class Node:
    """One thing, what is known of it, what it was made from, and what was made from it."""

    kind: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    made_from: Sequence[Node] = ()
    led_to: Sequence[Node] = ()


@dataclass(frozen=True)
class Records:
    """All runs of the experiment by their numbers, all versions, the ledger, and what the server answers by."""

    rounds: Mapping[str, MlflowRun]
    stages: Mapping[str, MlflowRun]
    versions: Mapping[str, Mapping[str, str]]
    entries: Sequence[Entry]
    loaded: Collection[int] | None


def round_tags(version: str, dirty: bool, lock_sha256: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags by which a round is found again: its version, and the DVC hash of each artifact by its path."""
    hashes = {f"{OUTPUT}{path}": value for path, value in outputs.items()}
    return {"version": version, "git_dirty": str(dirty).lower(), "dvc_lock_sha256": lock_sha256, **hashes}


def read(tracking: Tracking, entries: Sequence[Entry], loaded: Collection[int] | None) -> Records:
    """Returns what MLflow knows, beside the ledger's `entries` and the versions that a running server answers by."""
    rounds, stages = dict[str, MlflowRun](), dict[str, MlflowRun]()
    for run in runs(tracking):
        (stages if "stage" in run.data.tags else rounds)[run.info.run_id] = run
    return Records(rounds, stages, models.versions(tracking), entries, loaded)


def trace(records: Records, name: str) -> Node:
    """Returns the node of a version, run, data set, commit or artifact; a hash may be cut to its first six characters.

    Raises `UsageError` if nothing of that name is known, or several things are.
    """
    if name in records.versions:
        return _version(records, name)
    if name.isdecimal() and len(name) < SHORTEST_PREFIX:
        raise UsageError(f"there is no version {name}", f"The versions are: {', '.join(records.versions) or 'none'}.")
    kinds: dict[str, tuple[Collection[str], Callable[[Records, str], Node]]] = {
        "round": (records.rounds, _round),
        "stage run": (records.stages, _stage_run),
        "data set": (_values(records, "data"), _data),
        "commit": (_values(records, "git_commit"), _commit),
        "artifact": (_artifacts(records), _artifact),
        "lock file": (_values(records, "dvc_lock_sha256"), _lock_file),
    }
    found = [
        (kind, full)
        for kind, (known, _) in kinds.items()
        for full in known
        if full == name or (len(name) >= SHORTEST_PREFIX and full.startswith(name))
    ]
    if not found:
        remedy = (
            "Name a version, an MLflow run, a commit, or a hash of data.dvc or dvc.lock, of six characters at least."
        )
        raise UsageError(f"{name}: no round has used or made it", remedy)
    if len(found) > 1:
        several = ", ".join(f"{kind} {full}" for kind, full in found)
        raise UsageError(f"{name} names several things: {several}", "Write more of its characters.")
    ((kind, full),) = found
    return kinds[kind][1](records, full)


def _version(records: Records, number: str) -> Node:
    tags = records.versions[number]
    back = [_round_back(records, tags["round"])] if tags["round"] in records.rounds else []
    return Node("version", number, {**_version_facts(records, number), **_measured(records, tags["round"])}, back)


def _round(records: Records, run: str) -> Node:
    back = _round_back(records, run)
    return Node(back.kind, back.name, back.facts, back.made_from, _versions_of(records, [run]))


def _stage_run(records: Records, run: str) -> Node:
    tags = records.stages[run].data.tags
    uses = [tags.get(MLFLOW_PARENT_RUN_ID), *_reusing(records, run)]
    node = _stage_node(records, run)
    return Node(node.kind, node.name, node.facts, node.made_from, _rounds_forward(records, list(filter(None, uses))))


def _data(records: Records, value: str) -> Node:
    return Node("data set", value, led_to=_rounds_forward(records, _rounds_tagged(records, "data", value)))


def _commit(records: Records, value: str) -> Node:
    return Node("commit", value, led_to=_rounds_forward(records, _rounds_tagged(records, "git_commit", value)))


def _lock_file(records: Records, value: str) -> Node:
    return Node("dvc.lock", value, led_to=_rounds_forward(records, _rounds_tagged(records, "dvc_lock_sha256", value)))


def _artifact(records: Records, value: str) -> Node:
    rounds = [
        run
        for run, record in records.rounds.items()
        if any(tag.startswith(OUTPUT) and known == value for tag, known in record.data.tags.items())
    ]
    paths = {tag.removeprefix(OUTPUT) for run in rounds for tag, known in _tags(records, run).items() if known == value}
    return Node("artifact", value, {"path": ", ".join(sorted(paths))}, led_to=_rounds_forward(records, rounds))


def _round_back(records: Records, run: str) -> Node:
    """Returns a round with its code, its data and the runs that made what it used."""
    record, tags = records.rounds[run], _tags(records, run)
    dirty = tags.get("git_dirty") == "true"
    commit = Node(
        "commit", tags.get("git_commit", "none"), {"difference": f"{DIFFERENCE}, kept with the round"} if dirty else {}
    )
    children = [child for child in records.stages.values() if child.data.tags.get(MLFLOW_PARENT_RUN_ID) == run]
    producers = [child.data.tags.get("reused_from", child.info.run_id) for child in _oldest_first(children)]
    facts = {
        **_run_facts(record),
        "flow_run": tags.get("flow_run"),
        "dvc_lock_sha256": tags.get("dvc_lock_sha256"),
        "artifacts": {tag.removeprefix(OUTPUT): value for tag, value in tags.items() if tag.startswith(OUTPUT)},
        "parameters": dict(record.data.params),
    }
    data = Node("data set", tags.get("data", "unknown"))
    return Node("round", run, facts, [commit, data, *(_stage_node(records, each) for each in producers)])


def _stage_node(records: Records, run: str) -> Node:
    if run not in records.stages:
        return Node("stage run", run, {"note": "MLflow no longer has it"})
    record = records.stages[run]
    facts = {"stage": record.data.tags["stage"], **_run_facts(record), "metrics": dict(record.data.metrics)}
    return Node("stage run", run, facts)


def _rounds_forward(records: Records, runs: Collection[str]) -> list[Node]:
    known = _oldest_first([records.rounds[run] for run in dict.fromkeys(runs) if run in records.rounds])
    return [
        Node("round", run.info.run_id, _run_facts(run), led_to=_versions_of(records, [run.info.run_id]))
        for run in known
    ]


def _versions_of(records: Records, runs: Collection[str]) -> list[Node]:
    """Returns the versions that rounds registered, or found registered by an earlier one."""
    named = {_tags(records, run).get("version") for run in runs}
    return [
        Node("version", number, _version_facts(records, number))
        for number, tags in records.versions.items()
        if tags["round"] in runs or number in named
    ]


def _version_facts(records: Records, number: str) -> dict[str, Any]:
    tags = records.versions[number]
    names = ("overall", "model_fingerprint", "fingerprint", "bundle_sha256")
    served = None if records.loaded is None else int(number) in records.loaded
    return {**{name: tags.get(name) for name in names}, "played": _played(records, number), "served": served}


def _played(records: Records, number: str) -> list[str]:
    """Returns the roles that the version has played, in words, in the order of the ledger."""
    reigns = {reign.since: reign for reign in history.reigns(records.entries)}
    played = []
    for entry in records.entries:
        if entry.state != "done" or (number not in entry.after.values() and number not in entry.before.values()):
            continue
        for role, version in entry.after.items():
            if version == number != entry.before[role]:
                until = reigns[entry.time].until if role == "champion" else None
                played.append(f"{role} since {entry.time}{f' until {until}' if until else ''} ({entry.action})")
    return played


def _measured(records: Records, run: str) -> dict[str, Any]:
    """Returns what the gates measured of the bundle: parity, the trial server's answers, latency and size."""
    return {"measured": dict(records.rounds[run].data.metrics)} if run in records.rounds else {}


def _run_facts(run: MlflowRun) -> dict[str, Any]:
    ended = run.info.end_time
    return {
        "status": run.info.status,
        "started": history.iso(run.info.start_time),
        "seconds": (ended - run.info.start_time) / 1000 if ended else None,
    }


def _reusing(records: Records, run: str) -> list[str | None]:
    """Returns the rounds that found the outputs of a stage's run up to date."""
    return [
        child.data.tags.get(MLFLOW_PARENT_RUN_ID)
        for child in records.stages.values()
        if child.data.tags.get("reused_from") == run
    ]


def _values(records: Records, tag: str) -> set[str]:
    return {run.data.tags[tag] for run in records.rounds.values() if tag in run.data.tags}


def _artifacts(records: Records) -> set[str]:
    return {value for run in records.rounds.values() for tag, value in run.data.tags.items() if tag.startswith(OUTPUT)}


def _rounds_tagged(records: Records, tag: str, value: str) -> list[str]:
    return [number for number, run in records.rounds.items() if run.data.tags.get(tag) == value]


def _tags(records: Records, run: str) -> Mapping[str, str]:
    tags: Mapping[str, str] = records.rounds[run].data.tags
    return tags


def _oldest_first(runs: Sequence[MlflowRun]) -> list[MlflowRun]:
    return sorted(runs, key=lambda run: run.info.start_time)
