"""The two blessings. Missing evidence refuses; nothing is averaged over what happens to be there.

Quality: the challenger reaches every floor, and, against a champion scored on the same queries, is not worse, by
the one comparison of the project (`components/scores/comparison.py`).

* overall: the lower bound of the mean difference over tasks lies above `-margin` (non-inferiority). A model that is
  just as much worse passes with a probability of at most `1 - confidence`, however few the queries: few are refused,
  since they are not enough evidence. `benchmarks/gate.py` measures it;
* each task: refused if it dropped by more than `max_task_drop` and the drop is real, by Holm's correction over all
  tasks: many tasks raise no false alarm;
* each slice, a group of tasks with a limit of its own: as a task, with the correction over all slices.

In a word the challenger is *better* (the lower bound lies above 0), *not worse* (above `-margin`), *worse* (the upper
bound lies below 0), or there is *not enough evidence*. Only better passes where `on_not_worse` is `keep`.

Infrastructure: parity with the trained model, and a real server that answered in time and within its size.
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

from components.errors import EmbedlineError, Refused
from components.files import write_text
from components.registry.config import Promotion, Slice
from components.scores import Difference, Scores, TaskScore, comparison, defects

ROUNDING = 1e-6
Word = Literal["better", "not worse", "worse", "not enough evidence"]


@dataclass(frozen=True)
class Verdict:
    """What a gate found about one model: passed if there is no reason against it.

    `subject` and `against` are fingerprints; `table` holds one row a measurement. `word` says how the subject compares
    overall (None where there was no champion, or no sound evidence), `sentence` says it with the numbers.
    """

    blessing: Literal["quality", "infrastructure"]
    subject: str
    against: str | None
    reasons: tuple[str, ...]
    table: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    word: Word | None = None
    sentence: str = ""

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
            stays = "" if self.against is None else "The champion stays. "
            remedy = f"{stays}Improve the model or complete its evidence, then run again."
            raise Refused(f"{self.blessing}: " + "\n".join(self.reasons), remedy)

    def write(self, folder: Path) -> Path:
        """Keeps the verdict as `DIGEST.json` in `folder` and returns that path."""
        path = folder / f"{self.digest}.json"
        write_text(path, self._text())
        return path

    @classmethod
    def read(cls, path: Path) -> Verdict:
        """Returns a verdict that `write` has kept. Raises `EmbedlineError` if there is none."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return cls(**facts | {name: tuple(facts[name]) for name in ("reasons", "table")})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EmbedlineError(f"{path} holds no verdict: {error}", "Judge it again: `embedline run`.") from error

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
        reasons = reasons or _incomparable(challenger, champion) or _empty_slices(challenger, config)
    table: list[dict[str, Any]] = []
    word, sentence = None, ""
    if not reasons:
        reasons = _below_floors(challenger, config.floors)
        if champion is None:
            scored = {name: task.score for name, task in sorted(challenger.tasks.items())}
            everything = {"overall": challenger.aggregates["overall"], **scored}
            table = [{"name": name, "challenger": score} for name, score in everything.items()]
            sentence = "there was no champion to compare with"
        else:
            table, worse, word, sentence = _paired(challenger, champion, config)
            reasons += worse
    return Verdict(
        "quality", challenger.model.fingerprint, champion.model.fingerprint if champion else None, tuple(reasons),
        tuple(table), config.model_dump(), word, sentence,
    )  # fmt: skip


def infrastructure(subject: str, checks: Mapping[str, Any], config: Promotion) -> Verdict:
    """Returns the infrastructure verdict on the bundle with fingerprint `subject`.

    `checks` holds what was measured: `parity_cosine` (the least, exported against trained), `server_cosine` (the least,
    server against the bundle's expected vectors), `answered_fraction` (of the bundle's examples, those that the server
    answered: all must be), `latency_ms` (the median of single text requests) and `size_bytes` (of the bundle). One that
    is missing, not finite or outside its limits refuses.
    """
    limits: dict[str, tuple[float, float]] = {
        "parity_cosine": (config.min_parity_cosine, 1 + ROUNDING),
        "server_cosine": (config.min_parity_cosine, 1 + ROUNDING),
        "answered_fraction": (1, 1),
        "latency_ms": (0, config.max_latency_ms),
        "size_bytes": (1, config.max_size_bytes),
    }
    reasons = []
    for name, (least, most) in limits.items():
        value = checks.get(name)
        if value is None:
            reasons.append(f"{name}: was not measured")
        elif not _is_finite(value):
            reasons.append(f"{name}: {value!r} is no finite number")
        elif not least <= value <= most:
            limit = f"below {least}" if value < least else f"above {most}"
            reasons.append(f"{name}: {value} is {limit}")
    table = tuple({"name": name, "value": str(value)} for name, value in sorted(checks.items()))
    return Verdict("infrastructure", subject, None, tuple(reasons), table, config.model_dump())


def _paired(
    challenger: Scores, champion: Scores, config: Promotion
) -> tuple[list[dict[str, Any]], list[str], Word, str]:
    """Returns a row for overall, each task and each slice, the reasons against the challenger, the word and the
    sentence."""
    both_bounds = 2 * config.confidence - 1  # each bound of this interval is a one-sided one of the wanted confidence
    slices = {name: _members(challenger, name, each) for name, each in config.slices.items()}
    found = comparison.compare(challenger, champion, config.sign_flips, both_bounds, slices=slices)
    word = _word(found.overall, config)
    sentence = _sentence(word, found.overall, config)
    limits = [(task, task.name, config.max_task_drop) for task in found.tasks]
    limits += [(each, f"slice {each.name}", config.slices[each.name].max_drop) for each in found.slices]
    table = [_row(found.overall)]
    table += [{**_row(each), "name": name, "p_worse": each.p_worse_holm} for each, name, _ in limits]
    passing = ("better",) if config.on_not_worse == "keep" else ("better", "not worse")
    reasons = [] if word in passing else [f"overall: {sentence}"]
    reasons += [
        f"{name}: dropped by {-each.difference:.4f} (p {each.p_worse_holm:.4f}); at most {limit}"
        for each, name, limit in limits
        if each.difference < -limit and each.p_worse_holm <= 1 - config.confidence
    ]
    return table, reasons, word, sentence


def _word(found: Difference, config: Promotion) -> Word:
    if found.lower > 0:
        return "better"
    if found.lower >= -config.margin:
        return "not worse"
    return "worse" if found.upper < 0 else "not enough evidence"


def _sentence(word: Word, found: Difference, config: Promotion) -> str:
    needed = "; it must be better, by promotion.on_not_worse" if config.on_not_worse == "keep" else ""
    return (
        f"{word}: a difference of {found.difference:+.4f} over {found.queries} queries, at least "
        f"{found.lower:+.4f} and at most {found.upper:+.4f} ({config.confidence:.0%} bounds); "
        f"the margin is {config.margin}{needed}"
    )


def _members(scores: Scores, name: str, wanted: Slice) -> list[str]:
    """Returns the sets of a slice: those it lists, or those of the distribution, meta-task or modality of its name."""
    return [
        task
        for task, found in sorted(scores.tasks.items())
        if (task in wanted.sets if wanted.sets else name in (found.distribution, found.meta_task, found.modality))
    ]


def _empty_slices(scores: Scores, config: Promotion) -> list[str]:
    """Returns the slices of which a set, or every set, was not scored: what a limit is for must be there."""
    reasons = []
    for name, wanted in config.slices.items():
        members = _members(scores, name, wanted)
        if absent := sorted(set(wanted.sets or ()) - set(members)):
            reasons.append(f"slice {name}: {', '.join(absent)} is no evaluation set of the data set")
        elif not members:
            reasons.append(f"slice {name}: no set is of this distribution, meta-task or modality")
    return reasons


def _row(found: Difference) -> dict[str, Any]:
    return {
        "name": found.name,
        "challenger": found.ours,
        "champion": found.theirs,
        "difference": found.difference,
        "lower": found.lower,
        "upper": found.upper,
    }


def _defects(scores: Scores, tasks: Collection[str]) -> list[str]:
    """Returns what makes scores no evidence for a gate."""
    scored = scores.tasks
    found = [f"{name}: was not scored" for name in sorted(set(tasks) - set(scored))]
    found += [f"{name}: is no evaluation set of the data set" for name in sorted(set(scored) - set(tasks))]
    found += [] if scored else ["no task was scored"]
    if unsound := defects(scores):
        return unsound + found
    return found + (_aggregate_defects(scores) if scored else [])


def _aggregate_defects(scores: Scores) -> list[str]:
    """Every aggregate must be the plain mean over all tasks of its group; one modality is no group beside overall."""
    aggregates, tasks = scores.aggregates, [task for _, task in sorted(scores.tasks.items())]
    groups: dict[str, list[float]] = {"overall": [task.score for task in tasks]}
    several = len({task.modality for task in tasks}) > 1
    for task in tasks:
        for group in filter(None, (task.distribution, task.meta_task, task.modality if several else None)):
            groups.setdefault(group, []).append(task.score)
    return [
        f"aggregate {name}: {aggregates.get(name)} is not the mean of its tasks, {np.mean(values):.6f}"
        for name, values in groups.items()
        if name not in aggregates or abs(aggregates[name] - np.mean(values)) > ROUNDING
    ]


def _too_many_ties(scores: Scores, limit: float) -> list[str]:
    return [
        f"{name}: {task.tie_rate:.1%} of the queries are ties; at most {limit:.1%}{_examples(task)}"
        for name, task in sorted(scores.tasks.items())
        if task.tie_rate > limit
    ]


def _examples(task: TaskScore) -> str:
    """Returns which candidates tie and why, in words."""
    return "".join(f"; {tie.relevant} and {tie.other} tie: {tie.reason}" for tie in task.ties)


def _incomparable(challenger: Scores, champion: Scores) -> list[str]:
    return [
        f"{reason}; score the champion again on the present data" for reason in comparison.unlike(challenger, champion)
    ]


def _below_floors(scores: Scores, floors: Mapping[str, float]) -> list[str]:
    reasons = []
    for name, floor in floors.items():
        reached = scores.aggregates.get(name)
        if reached is None:
            reasons.append(f"{name}: has a floor of {floor} but no score")
        elif reached < floor:
            reasons.append(f"{name}: {reached:.4f} is below its floor of {floor}")
    return reasons


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
