"""The two blessings. Missing evidence refuses; nothing is averaged over what happens to be there.

Quality: the challenger reaches every floor, and, against a champion scored on the same queries, is not worse, by
the one comparison of the project (`components/comparison.py`).

* overall: the lower bound of the mean difference over tasks lies above `-margin` (non-inferiority);
* each task: refused if it dropped by more than `max_task_drop` and the drop is real, by Holm's correction over all
  tasks: many tasks raise no false alarm.

Infrastructure: parity with the trained model, and a real server that loaded the version and answered.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components import comparison
from components.config import Promotion
from components.errors import Refused

Scores = Mapping[str, Any]
"""The content of a score file."""
ROUNDING = 1e-6
MIN_PAIRED_QUERIES = 30
"""Fewer than this say nothing about a difference of a few points."""
COSINES = ("parity_cosine", "server_cosine")
SHARES = ("answered_share",)
AMOUNTS = ("latency_ms", "size_bytes")


@dataclass(frozen=True)
class Verdict:
    """What a gate found about one model: passed if there is no reason against it.

    `subject` and `against` are fingerprints; `table` holds one row a measurement.
    """

    blessing: Literal["quality", "infrastructure"]
    subject: str
    against: str | None
    reasons: tuple[str, ...]
    table: tuple[dict[str, Any], ...]
    settings: dict[str, Any]

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def digest(self) -> str:
        """The SHA-256 of everything in it; the ledger names it."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def require(self) -> None:
        """Raises `Refused` with every reason unless passed."""
        if not self.passed:
            remedy = "The champion stays. Mend the model or its evidence, then run again."
            raise Refused(f"{self.blessing}: " + "\n".join(self.reasons), remedy)

    def write(self, folder: Path) -> Path:
        """Keeps the verdict as `DIGEST.json` in `folder` and returns that path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.digest}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(self._text(), encoding="utf-8")
        partial.replace(path)
        return path

    def _text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False, indent=2) + "\n"


def compare(challenger: Scores, champion: Scores | None, config: Promotion, tasks: Collection[str]) -> Verdict:
    """Returns the quality verdict. `tasks` are the evaluation sets of the data set: each must be scored, no
    other may be. Without a champion only the evidence and the floors decide.
    """
    reasons = [f"challenger: {defect}" for defect in _defects(challenger, tasks)]
    reasons += [f"challenger: {defect}" for defect in _too_many_ties(challenger, config.max_tie_rate)]
    if champion is not None:
        reasons += [f"champion: {defect}" for defect in _defects(champion, tasks)]
        reasons = reasons or _incomparable(challenger, champion)
    table: list[dict[str, Any]] = []
    if not reasons:
        reasons = _below_floors(challenger, config.floors)
        if champion is None:
            scored = {name: task["score"] for name, task in sorted(challenger["tasks"].items())}
            everything = {"overall": challenger["aggregates"]["overall"], **scored}
            table = [{"name": name, "challenger": float(score)} for name, score in everything.items()]
        else:
            table, worse = _paired(challenger, champion, config)
            reasons += worse
    return Verdict(
        "quality", _fingerprint(challenger), _fingerprint(champion) if champion else None, tuple(reasons), tuple(table),
        config.model_dump(),
    )  # fmt: skip


def infrastructure(subject: str, checks: Mapping[str, Any], config: Promotion) -> Verdict:
    """Returns the infrastructure verdict on the bundle with fingerprint `subject`.

    `checks` holds `parity_cosine` (least, exported against trained), `server_cosine` (least, server against the
    bundle's expected vectors), `answered_share` (1), `latency_ms`, `size_bytes`. One that is missing refuses.
    """
    reasons = []
    for name in (*COSINES, *SHARES, *AMOUNTS):
        value = checks.get(name)
        if value is None:
            reasons.append(f"{name}: was not measured")
        elif not _is_finite(value):
            reasons.append(f"{name}: {value!r} is no finite number")
        elif name in SHARES and value != 1:
            reasons.append(f"{name}: {value:.3f} is below 1")
        elif name in COSINES and value < config.min_parity_cosine:
            reasons.append(f"{name}: {value:.6f} is below {config.min_parity_cosine}")
    table = tuple({"name": name, "value": str(value)} for name, value in sorted(checks.items()))
    return Verdict("infrastructure", subject, None, tuple(reasons), table, config.model_dump())


def _paired(challenger: Scores, champion: Scores, config: Promotion) -> tuple[list[dict[str, Any]], list[str]]:
    both_bounds = 2 * config.confidence - 1  # each bound of this interval is a one-sided one of the wanted confidence
    found = comparison.compare(challenger, champion, config.bootstrap_samples, both_bounds)
    table = [_row(found.overall), *({**_row(task), "p_worse": task.p_worse_holm} for task in found.tasks)]
    reasons = []
    if (lower := found.overall.lower) < -config.margin:
        reasons.append(
            f"overall: may be worse by {-lower:.4f} ({config.confidence:.0%} bound of "
            f"{found.overall.difference:+.4f}); the margin is {config.margin}"
        )
    reasons += [
        f"{task.name}: dropped by {-task.difference:.4f} (p {task.p_worse_holm:.4f}); at most {config.max_task_drop}"
        for task in found.tasks
        if task.difference < -config.max_task_drop and task.p_worse_holm <= 1 - config.confidence
    ]
    return table, reasons


def _row(found: comparison.Difference) -> dict[str, Any]:
    return {
        "name": found.name,
        "challenger": found.ours,
        "champion": found.theirs,
        "difference": found.difference,
        "lower": found.lower,
        "upper": found.upper,
    }


def _defects(scores: Scores, tasks: Collection[str]) -> list[str]:
    """Returns what makes a score file no evidence."""
    defects = [f"{key} is missing" for key in ("dataset_digest", "scorer", "prompts") if not scores.get(key)]
    defects += [] if scores.get("model", {}).get("fingerprint") else ["the model's fingerprint is missing"]
    scored = scores.get("tasks", {})
    defects += [f"{name}: was not scored" for name in sorted(set(tasks) - set(scored))]
    defects += [f"{name}: is no evaluation set of the data set" for name in sorted(set(scored) - set(tasks))]
    defects += [] if scored else ["no task was scored"]
    sound = []
    for name, task in sorted(scored.items()):
        defect = _task_defect(task)
        defects += [f"{name}: {defect}"] if defect else []
        sound += [] if defect else [task]
    if len(sound) == len(scored) and scored:
        defects += _aggregate_defects(scores.get("aggregates", {}), sound)
    return defects


def _task_defect(task: Mapping[str, Any]) -> str | None:
    if not all(_is_finite(task.get(key)) for key in ("score", "tie_rate")):
        return "the score or tie rate is missing or not finite"
    if defect := comparison.values_defect(task):
        return defect
    values = np.asarray(task["values"], float)
    if values.min() < 0 or values.max() > 1:
        return "a value lies outside 0 to 1"
    if abs(values.mean() - task["score"]) > ROUNDING:
        return f"the score {task['score']:.6f} is not the mean of the values, {values.mean():.6f}"
    return None


def _aggregate_defects(aggregates: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> list[str]:
    """Every aggregate must be the plain mean over all tasks of its group; one modality is no group beside overall."""
    groups: dict[str, list[float]] = {"overall": [task["score"] for task in tasks]}
    modalities = ("modality",) if len({task.get("modality") for task in tasks}) > 1 else ()
    for task in tasks:
        for group in filter(None, map(task.get, ("distribution", "meta_task", *modalities))):
            groups.setdefault(group, []).append(task["score"])
    return [
        f"aggregate {name}: {aggregates.get(name)} is not the mean of its tasks, {np.mean(values):.6f}"
        for name, values in groups.items()
        if not _is_finite(aggregates.get(name)) or abs(aggregates[name] - np.mean(values)) > ROUNDING
    ]


def _too_many_ties(scores: Scores, limit: float) -> list[str]:
    rates = {name: task.get("tie_rate") for name, task in scores.get("tasks", {}).items()}
    return [
        f"{name}: {rate:.1%} of the queries are ties; at most {limit:.1%}"
        for name, rate in sorted(rates.items())
        if _is_finite(rate) and rate > limit
    ]


def _incomparable(challenger: Scores, champion: Scores) -> list[str]:
    reasons = [
        f"{reason}; score the champion again on the present data" for reason in comparison.unlike(challenger, champion)
    ]
    if (paired := sum(task["queries"] for task in challenger["tasks"].values())) < MIN_PAIRED_QUERIES:
        reasons.append(f"{paired} paired queries are too few to compare; at least {MIN_PAIRED_QUERIES}")
    return reasons


def _below_floors(scores: Scores, floors: Mapping[str, float]) -> list[str]:
    reasons = []
    for name, floor in floors.items():
        reached = scores["aggregates"].get(name)
        if not _is_finite(reached):
            reasons.append(f"{name}: has a floor of {floor} but no score")
        elif reached < floor:
            reasons.append(f"{name}: {reached:.4f} is below its floor of {floor}")
    return reasons


def _fingerprint(scores: Scores) -> str:
    return str(scores.get("model", {}).get("fingerprint", ""))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
