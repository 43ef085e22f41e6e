"""Which stages would run, and why: what DVC finds changed, with the old value from `dvc.lock` and the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.lineage.versions import changed_stages, locked_stages

PIPELINE, PARAMETERS = "dvc.yaml", "params.yaml"


@dataclass(frozen=True)
class Reason:
    """What is not as it was: a file, an output, a command, or a parameter, with its values where it is one."""

    what: str
    change: str
    old: Any = None
    new: Any = None


@dataclass(frozen=True)
class Planned:
    """A stage that a round would run. It is not `certain` where it only depends on what would be made anew: that may
    turn out the same."""

    stage: str
    certain: bool
    reasons: tuple[Reason, ...]


def plan(root: Path, order: Sequence[str], more: Mapping[str, Sequence[Reason]] | None = None) -> list[Planned]:
    """Returns the stages that would run, in the order given; runs nothing and changes no file of the workspace.

    `more` are reasons that DVC cannot know yet, by stage (and by `data`, for all that depend on the data set).
    """
    more = more or {}
    pipeline = yaml.safe_load((root / PIPELINE).read_text(encoding="utf-8"))["stages"]
    changes = changed_stages(root) if (root / ".dvc" / "config").is_file() else {}
    known = locked_stages(root)
    anew = {"data": "the data set"} if "data" in more else {}
    planned = []
    for stage in order:
        own = [*_own_reasons(root, stage, changes.get(stage, ()), known.get(stage)), *more.get(stage, ())]
        named = {reason.what for reason in own}
        upstream = [
            Reason(path, f"would be made anew by {anew[path]}")
            for path in pipeline[stage]["deps"]
            if stage in known and path in anew and path not in named
        ]
        if own or upstream:
            planned.append(Planned(stage, bool(own), (*own, *upstream)))
            anew |= {path: f"stage {stage}" for path in _paths(pipeline[stage].get("outs", ()))}
    return planned


def _own_reasons(root: Path, stage: str, changes: Sequence[Any], locked: Mapping[str, Any] | None) -> Iterator[Reason]:
    if locked is None:
        yield Reason(stage, "has never finished here")
        return
    for change in changes:
        if isinstance(change, str):
            yield Reason(change.removeprefix("changed "), "changed")
            continue
        for path, state in change.get("changed deps", {}).items():
            if path == PARAMETERS:
                yield from _changed_parameters(root, locked, state)
            else:
                yield Reason(path, state)
        for path, state in change.get("changed outs", {}).items():
            yield Reason(path, f"output {state}")


def _changed_parameters(root: Path, locked: Mapping[str, Any], sections: Mapping[str, str] | str) -> Iterator[Reason]:
    old = locked.get("params", {}).get(PARAMETERS, {})
    new = yaml.safe_load((root / PARAMETERS).read_text(encoding="utf-8"))
    for section in sections if isinstance(sections, Mapping) else old:
        yield from changed_values(section, old.get(section), new.get(section))


def changed_values(name: str, old: Any, new: Any) -> Iterator[Reason]:
    """Yields a reason for each value that differs, mappings and lists gone through; None stands for one not there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from changed_values(f"{name}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from changed_values(f"{name}.{place}", before, after)
    elif old != new:
        yield Reason(name, "parameter", old, new)


def _paths(outs: Sequence[Any]) -> list[str]:
    """Returns the paths of outputs, of which each is written as a path or as a path with settings."""
    return [path for out in outs for path in (out if isinstance(out, Mapping) else [out])]
