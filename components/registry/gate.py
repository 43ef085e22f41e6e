"""The two blessings. Missing evidence refuses; nothing is averaged over what happens to be there.

Quality: the challenger reaches every floor, and, against a champion scored on the same queries, is not worse, by
the one comparison of the project (`components/scores/comparison.py`).

* overall: the lower bound of the mean difference over tasks lies above `-margin` (non-inferiority). A model that is
  just as much worse passes with a probability of at most `1 - confidence`, however few the queries: few are refused,
  since they are not enough evidence. `benchmarks/gate.py` measures it;
* each task: refused if it dropped by more than `max_task_drop` and the drop is real, by Holm's correction over all
  tasks: many tasks raise no false alarm;
* each slice, a group of tasks, or of queries, with a limit of its own: as a task, with the correction over all slices;
* each other metric: its mean over the tasks reaches its floor and did not drop by more than it may.

In a word the challenger is *better* (the lower bound lies above 0), *not worse* (above `-margin`), *worse* (the upper
bound lies below 0), or there is *not enough evidence*. Only better passes where `on_not_worse` is `keep`.

Infrastructure: parity with the trained model; a real server without a network, which loaded the bundle, answered as
expected, in time and within its size; asked by turns with the champion, it is not surely slower than it may be; and the
licences of the bundle's files are allowed ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.errors import EmbedlineError, Refused
from components.files import write_text
from components.registry.config import Metric, Promotion, Slice
from components.scores import Difference, Scores, TaskScore, comparison, defects

ROUNDING = 1e-6
Columns = Mapping[str, Sequence[str]]
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


def compare(
    challenger: Scores,
    champion: Scores | None,
    config: Promotion,
    tasks: Collection[str],
    rows: Mapping[str, Columns] | None = None,
) -> Verdict:
    """Returns the quality verdict. `tasks` are the evaluation sets of the data set: each must be scored, no
    other may be. Without a champion only the evidence and the floors decide.

    `rows` are, by set, the columns of its rows that slices ask for, a value a query, as `corpus.row_values` reads them.
    """
    reasons = [f"challenger: {defect}" for defect in _defects(challenger, tasks)]
    reasons += [f"challenger: {defect}" for defect in _too_many_ties(challenger, config.max_tie_rate)]
    if champion is not None:
        reasons += [f"champion: {defect}" for defect in _defects(champion, tasks)]
        reasons = reasons or _incomparable(challenger, champion) or _empty_slices(challenger, config, rows or {})
    table: list[dict[str, Any]] = []
    word, sentence = None, ""
    if not reasons:
        reasons = _below_floors(challenger, config.floors) + _other_metrics(challenger, champion, config.metrics)
        if champion is None:
            scored = {name: task.score for name, task in sorted(challenger.tasks.items())}
            everything = {"overall": challenger.aggregates["overall"], **scored}
            table = [{"name": name, "challenger": score} for name, score in everything.items()]
            sentence = "there was no champion to compare with"
        else:
            table, worse, word, sentence = _paired(challenger, champion, config, rows or {})
            reasons += worse
        table += _metric_rows(challenger, champion, config.metrics)
    return Verdict(
        "quality", challenger.model.fingerprint, champion.model.fingerprint if champion else None, tuple(reasons),
        tuple(table), config.model_dump(), word, sentence,
    )  # fmt: skip


def infrastructure(subject: str, checks: Mapping[str, Any], config: Promotion, against: str | None = None) -> Verdict:
    """Returns the infrastructure verdict on the bundle with fingerprint `subject`, measured beside the champion's with
    fingerprint `against`, if there is one.

    `checks` holds what was measured: `parity_cosine` (the least, exported against trained), `rank_agreement` (how much
    of an item's ten nearest is the same for both) and what `serving.evidence.measure` returns. What is missing, not
    finite or outside its limits refuses.
    """
    limits: dict[str, tuple[float, float]] = {
        "parity_cosine": (config.min_parity_cosine, 1 + ROUNDING),
        "rank_agreement": (config.min_rank_agreement, 1),
        "server_cosine": (config.min_parity_cosine, 1 + ROUNDING),
        "answered_fraction": (1, 1),
        "latency_ms": (0, config.max_latency_ms),
        "size_bytes": (1, config.max_size_bytes),
        "memory_bytes": (1, math.inf),
        "load_seconds": (0, math.inf),
        "network_tries": (0, 0),
    }
    reasons = [reason for name, between in limits.items() for reason in _outside(name, checks, *between)]
    reasons += _slower(checks, config) if against else []
    reasons += _not_allowed(checks.get("licences"), config.licences)
    table = tuple({"name": name, "value": str(value)} for name, value in sorted(checks.items()))
    return Verdict("infrastructure", subject, against, tuple(reasons), table, config.model_dump())


def _outside(name: str, checks: Mapping[str, Any], least: float, most: float) -> list[str]:
    """Returns why a measurement is none, or is outside its limits."""
    value = checks.get(name)
    if value is None:
        return [f"{name}: was not measured"]
    if not _is_finite(value):
        return [f"{name}: {value!r} is no finite number"]
    if least <= value <= most:
        return []
    if name == "network_tries":
        proof = checks.get("network_proof")
        return [f"{name}: the model tried to reach a network {value} times before it had answered (proof: {proof})"]
    return [f"{name}: {value} is {f'below {least}' if value < least else f'above {most}'}"]


def _slower(checks: Mapping[str, Any], config: Promotion) -> list[str]:
    """Returns in what the challenger is surely slower than it may be, or was not measured beside the champion."""
    reasons = []
    for name in ("slowdown_latency", "slowdown_throughput"):
        if unsound := [
            each for part in ("", "_lower", "_upper") for each in _outside(name + part, checks, 0, math.inf)
        ]:
            reasons += unsound
        elif config.max_slowdown is not None and checks[f"{name}_lower"] > config.max_slowdown:
            reasons.append(
                f"{name}: {checks[name]:.2f} times as slow as the champion, at least {checks[f'{name}_lower']:.2f} and "
                f"at most {checks[f'{name}_upper']:.2f} ({config.confidence:.0%} bounds); at most {config.max_slowdown}"
            )
    return reasons


def _not_allowed(licences: Mapping[str, Sequence[str]] | None, allowed: Collection[str] | None) -> list[str]:
    """Returns the licences that are not allowed, each with its files; `licences` are files by their SPDX expression."""
    if allowed is None:
        return []
    if not licences:
        return ["licences: are not known"]
    return [
        f"licences: {expression}, which promotion.licences does not name: {', '.join(files)}"
        for expression, files in sorted(licences.items())
        if not set(expression.split(" AND ")) <= set(allowed)
    ]


def _paired(
    challenger: Scores, champion: Scores, config: Promotion, rows: Mapping[str, Columns]
) -> tuple[list[dict[str, Any]], list[str], Word, str]:
    """Returns a row for overall, each task and each slice, the reasons against the challenger, the word and the
    sentence."""
    both_bounds = 2 * config.confidence - 1  # each bound of this interval is a one-sided one of the wanted confidence
    slices = {name: _members(challenger, name, each, rows) for name, each in config.slices.items()}
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


def _members(
    scores: Scores, name: str, wanted: Slice, rows: Mapping[str, Columns]
) -> dict[str, comparison.Mask | None]:
    """Returns the sets of a slice, and the queries that count, None for all: the sets that it lists, or all of which it
    asks for rows, or those of the distribution, meta-task or modality of its name."""
    found: dict[str, comparison.Mask | None] = {}
    for task, score in sorted(scores.tasks.items()):
        named = name in (score.distribution, score.meta_task, score.modality)
        if not (task in wanted.sets if wanted.sets else named or wanted.where):
            continue
        if wanted.where is None:
            found[task] = None
        elif (mask := _having(wanted.where, rows.get(task, {}), score.queries)).any():
            found[task] = mask
    return found


def _having(where: Mapping[str, str], columns: Columns, queries: int) -> comparison.Mask:
    """Returns which queries have these values; none where a column is not there."""
    kept = np.ones(queries, bool)
    for column, value in where.items():
        kept &= np.array([found == value for found in columns.get(column, [None] * queries)], bool)
    return kept


def _empty_slices(scores: Scores, config: Promotion, rows: Mapping[str, Columns]) -> list[str]:
    """Returns the slices of which a set, or every query, was not scored: what a limit is for must be there."""
    reasons = []
    for name, wanted in config.slices.items():
        unscored = sorted(set(wanted.sets or ()) - set(scores.tasks))
        if unscored:
            reasons.append(f"slice {name}: {', '.join(unscored)} is no evaluation set of the data set")
        elif not _members(scores, name, wanted, rows):
            having = " and ".join(f"{column} {value!r}" for column, value in (wanted.where or {}).items())
            nothing = f"no query has {having}" if having else "no set is of this distribution, meta-task or modality"
            reasons.append(f"slice {name}: {nothing}")
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


def _other_metrics(scores: Scores, champion: Scores | None, metrics: Mapping[str, Metric]) -> list[str]:
    """Returns the metrics that miss their floor, or dropped by more than they may."""
    reasons = []
    for name, limit in metrics.items():
        if absent := [task for task, score in sorted(scores.tasks.items()) if name not in score.metrics]:
            reasons.append(f"{name}: was not computed on {', '.join(absent)}")
            continue
        reached = _mean(scores, name)
        if limit.floor is not None and reached < limit.floor:
            reasons.append(f"{name}: {reached:.4f} is below its floor of {limit.floor}")
        if limit.max_drop is None or champion is None:
            continue
        if any(name not in score.metrics for score in champion.tasks.values()):
            reasons.append(f"{name}: was not computed for the champion")
        elif (drop := _mean(champion, name) - reached) > limit.max_drop:
            reasons.append(f"{name}: dropped by {drop:.4f}; at most {limit.max_drop}")
    return reasons


def _metric_rows(scores: Scores, champion: Scores | None, metrics: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """Returns a row for each other metric that every set of both has."""
    rows = []
    both = {"challenger": scores, **({"champion": champion} if champion else {})}
    for name in metrics:
        if all(name in score.metrics for each in both.values() for score in each.tasks.values()):
            means: dict[str, Any] = {who: _mean(each, name) for who, each in both.items()}
            difference = {"difference": means["challenger"] - means["champion"]} if champion else {}
            rows.append({"name": name, **means, **difference})
    return rows


def _mean(scores: Scores, metric: str) -> float:
    return float(np.mean([score.metrics[metric] for score in scores.tasks.values()]))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
