"""The two blessings. Missing evidence refuses; nothing is averaged over what happens to be there.

Quality: the challenger reaches every floor, and, against a champion scored on the same queries, is not worse. The
queries are paired, so their difficulty cancels; they are resampled within each task, so that no task vanishes.

* overall: the lower bound of the mean difference over tasks lies above `-margin` (non-inferiority);
* each task: refused if it dropped by more than `max_task_drop` and the drop is real, by Holm's correction over all
  tasks (S. Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure): many tasks raise no false alarm.

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

from components.config import Promotion
from components.errors import Refused

Scores = Mapping[str, Any]
"""The content of a score file."""
ROUNDING = 1e-6
MIN_PAIRED_QUERIES = 30
"""Fewer than this say nothing about a difference of a few points."""
COSINES = ("parity_cosine", "server_cosine")
FLAGS = ("loaded", "answered")
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
        reasons += _unlike(challenger, champion)
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
    bundle's expected vectors), `loaded`, `answered` (true), `latency_ms`, `size_bytes`. One that is missing refuses.
    """
    reasons = []
    for name in (*COSINES, *FLAGS, *AMOUNTS):
        value = checks.get(name)
        if value is None:
            reasons.append(f"{name}: was not measured")
        elif name in FLAGS:
            reasons += [] if value is True else [f"{name}: no"]
        elif not _is_finite(value):
            reasons.append(f"{name}: {value!r} is no finite number")
        elif name in COSINES and value < config.min_parity_cosine:
            reasons.append(f"{name}: {value:.6f} is below {config.min_parity_cosine}")
    table = tuple({"name": name, "value": str(value)} for name, value in sorted(checks.items()))
    return Verdict("infrastructure", subject, None, tuple(reasons), table, config.model_dump())


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns the p-values adjusted for the number of tests, in the same order."""
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def resampled_means(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Returns `(samples,)` bootstrap means of `values`.

    Drawing how often each different value occurs is the same bootstrap in memory that does not grow with the queries.
    """
    different, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=samples)
    return np.asarray(drawn @ different / len(values))


def _paired(challenger: Scores, champion: Scores, config: Promotion) -> tuple[list[dict[str, Any]], list[str]]:
    names = sorted(challenger["tasks"])
    ours, theirs = (
        [np.asarray(scores["tasks"][name]["hits"], float) for name in names] for scores in (challenger, champion)
    )
    differences = [our - their for our, their in zip(ours, theirs, strict=True)]
    generator = np.random.default_rng(0)
    means = np.stack([resampled_means(difference, config.bootstrap_samples, generator) for difference in differences])
    p_values = holm((1 + (means >= 0).sum(axis=1)) / (1 + config.bootstrap_samples))
    overall = means.mean(axis=0)
    table = [_row("overall", challenger["aggregates"]["overall"], champion["aggregates"]["overall"], overall, config)]
    reasons = []
    if (lower := table[0]["lower"]) < -config.margin:
        reasons.append(
            f"overall: may be worse by {-lower:.4f} ({config.confidence:.0%} bound of {table[0]['difference']:+.4f}); "
            f"the margin is {config.margin}"
        )
    for index, name in enumerate(names):
        row = _row(name, ours[index].mean(), theirs[index].mean(), means[index], config)
        row["p_worse"] = float(p_values[index])
        table.append(row)
        if row["difference"] < -config.max_task_drop and p_values[index] <= 1 - config.confidence:
            drop = f"dropped by {-row['difference']:.4f} (p {p_values[index]:.4f})"
            reasons.append(f"{name}: {drop}; at most {config.max_task_drop}")
    return table, reasons


def _row(name: str, challenger: float, champion: float, means: np.ndarray, config: Promotion) -> dict[str, Any]:
    lower, upper = np.quantile(means, [1 - config.confidence, config.confidence])
    return {
        "name": name,
        "challenger": float(challenger),
        "champion": float(champion),
        "difference": float(challenger - champion),
        "lower": float(lower),
        "upper": float(upper),
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
    hits = np.asarray(task.get("hits", ()), float)
    if not all(_is_finite(task.get(key)) for key in ("score", "tie_rate")) or not np.isfinite(hits).all():
        return "a score, tie rate or hit is missing or not finite"
    if not len(hits) or len(hits) != task.get("queries"):
        return f"{len(hits)} hits for {task.get('queries')} queries"
    if hits.min() < 0 or hits.max() > 1:
        return "a hit lies outside 0 to 1"
    if abs(hits.mean() - task["score"]) > ROUNDING:
        return f"the score {task['score']:.6f} is not the mean of the hits, {hits.mean():.6f}"
    return None


def _aggregate_defects(aggregates: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> list[str]:
    """Every aggregate must be the plain mean over all tasks of its group."""
    groups: dict[str, list[float]] = {"overall": [task["score"] for task in tasks]}
    for task in tasks:
        for key in ("distribution", "meta_task"):
            groups.setdefault(task[key], []).append(task["score"])
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


def _unlike(challenger: Scores, champion: Scores) -> list[str]:
    """Two score files compare only if the same scorer asked both models the same questions."""
    reasons = [
        f"{label} differs: {challenger.get(key)} and {champion.get(key)}; score the champion again on the present data"
        for key, label in (("dataset_digest", "the data set"), ("scorer", "the scorer"), ("prompts", "the prompts"))
        if challenger.get(key) != champion.get(key)
    ]
    ours_by_name, theirs_by_name = challenger.get("tasks", {}), champion.get("tasks", {})
    both = {name: (task, theirs_by_name[name]) for name, task in ours_by_name.items() if name in theirs_by_name}
    reasons += [
        f"{name}: {key} differ: {ours.get(key)} and {theirs.get(key)}"
        for name, (ours, theirs) in sorted(both.items())
        for key in ("queries", "candidates", "metric")
        if ours.get(key) != theirs.get(key)
    ]
    if (paired := sum(ours.get("queries", 0) for ours, _ in both.values())) < MIN_PAIRED_QUERIES:
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
