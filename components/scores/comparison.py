"""The one comparison of two models: paired over the same queries, per set and overall; gates and reports call it.

Overall is the mean of the sets' differences, whatever their sizes. The queries are paired, so their difficulty cancels.

* Interval: that of rare wins and losses, which holds for few queries too (`components/scores/intervals.py`).
* p that they differ, and that ours is worse: were the models equal, each difference could as well have the other sign;
  the share of random signs that give as much (E. Pitman 1937, Significance Tests Which May be Applied to Samples from
  Any Populations).
* McNemar: the same in closed form where every value is 0 or 1 (Q. McNemar 1947, Note on the Sampling Error of the
  Difference Between Correlated Proportions or Percentages; exact binomial).
* Holm: many sets raise no false alarm (S. Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from components.errors import UsageError
from components.scores.file import ROUNDING, Scores, TaskScore, defects
from components.scores.intervals import Values, difference_interval

Mask = NDArray[np.bool_]
"""Which of a set's queries count, `(queries,)`."""
Outcome = Literal["better", "worse", "no difference shown"]
IDENTITY = (
    ("dataset_digest", "the data set differs"),
    ("scorer", "the scorer differs"),
    ("prompts", "the prompts differ"),
)
CELLS_PER_BLOCK = 2**22


@dataclass(frozen=True)
class Difference:
    """One set, or overall: `difference` is `ours - theirs`, `lower` to `upper` its two-sided interval.

    `p_worse` is one-sided, the others two-sided. `mcnemar` is None unless every value is 0 or 1; overall it is that of
    all queries together, where large sets weigh more. The `_holm` ones are adjusted over the sets that have one;
    overall is one test and needs none. The verdict needs both `p_different_holm` and the interval.
    """

    name: str
    queries: int
    ours: float
    theirs: float
    difference: float
    lower: float
    upper: float
    p_worse: float
    p_different: float
    mcnemar: float | None
    p_worse_holm: float
    p_different_holm: float
    mcnemar_holm: float | None
    verdict: Outcome


@dataclass(frozen=True)
class Comparison:
    """Two models on the same queries: overall, each set in the order of the names, and each slice that was asked for.

    Where a score file is not of its whole benchmark there is no overall: it is then called `over N sets`.
    """

    overall: Difference
    tasks: tuple[Difference, ...]
    samples: int
    confidence: float
    slices: tuple[Difference, ...] = ()

    def words(self, ours: str, theirs: str) -> str:
        """Returns the verdict on the models of these names, such as `A is better: +1.2 points overall (0.3 to 2.1)`."""
        found = self.overall
        verdict, signed = "no difference shown", (found.difference, found.lower, found.upper)
        if found.verdict == "better":
            verdict = f"{ours} is better"
        elif found.verdict == "worse":
            verdict, signed = f"{theirs} is better", (-found.difference, -found.upper, -found.lower)
        difference, lower, upper = (100 * value for value in signed)
        sentence = f"{verdict}: {difference:+.1f} points {found.name} ({lower:.1f} to {upper:.1f})"
        for name, outcome in ((ours, "better"), (theirs, "worse")):
            if count := sum(task.verdict == outcome for task in self.tasks):
                sentence += f"; {name} is better on {count} of {len(self.tasks)} sets"
        return sentence


def compare(
    ours: Scores,
    theirs: Scores,
    samples: int,
    confidence: float,
    same_prompts: bool = True,
    slices: Mapping[str, Mapping[str, Mask | None]] | None = None,
) -> Comparison:
    """Returns how the first of two scores on the same queries differ from the second.

    `samples` random signs are drawn for the p-values, the same ones each time. `confidence` (0 to 1) is that of the
    intervals; what it leaves is the level of the verdicts. Raises `UsageError` that says why if the scores have
    defects or do not compare, or if with so few samples Holm's correction would let no p-value pass, however large the
    difference. `same_prompts` is that of `unlike`. `slices` name groups of sets, each set with the queries that count,
    None for all; like overall, each is the mean of its sets' differences, with p-values adjusted over the slices.
    """
    if reasons := [*defects(ours), *defects(theirs)] or unlike(ours, theirs, same_prompts):
        remedy = "Score both models on the same data with the same version of this program."
        raise UsageError("the scores do not compare: " + "\n".join(reasons), remedy)
    names, groups = sorted(ours.tasks), slices or {}
    if samples < (enough := math.ceil(2 * (tests := max(len(names), len(groups))) / (1 - confidence)) - 1):
        kind = "sets" if tests == len(names) else "slices"
        problem = f"{samples} samples of random signs are too few to show a difference on {tests} {kind}"
        raise UsageError(problem, f"Draw at least {enough}, or ask for less confidence.")
    generator = np.random.default_rng(0)
    sets = [_paired(name, ours.tasks[name], theirs.tasks[name], samples, generator) for name in names]
    by_name = dict(zip(names, sets, strict=True))
    sliced = [
        _overall(group, [by_name[name].only(mask, samples, generator) for name, mask in sorted(members.items())])
        for group, members in groups.items()
    ]
    incomplete = any(scores.missing or scores.extra for scores in (ours, theirs))
    overall = _overall(f"over {len(sets)} sets" if incomplete else "overall", sets)
    p_overall = _p_values(overall)
    return Comparison(
        _difference(overall, p_overall, p_overall, confidence),
        _adjusted(sets, confidence),
        samples,
        confidence,
        _adjusted(sliced, confidence),
    )


def unlike(ours: Scores, theirs: Scores, same_prompts: bool = True) -> list[str]:
    """Returns why the scores of two models do not compare: they do if the same scorer asked both the same questions.

    Without `same_prompts` each model may have been asked in the words of its own family.
    """
    reasons = []
    for key, differs in IDENTITY:
        our_value, their_value = getattr(ours, key), getattr(theirs, key)
        if our_value != their_value and (same_prompts or key != "prompts"):
            reasons.append(f"{differs}: {our_value} and {their_value}")
    reasons += [] if ours.tasks or theirs.tasks else ["no set was scored"]
    for name in sorted({*ours.tasks, *theirs.tasks}):
        if name not in ours.tasks or name not in theirs.tasks:
            reasons.append(f"{name}: was scored for one of the models only")
            continue
        our, their = ours.tasks[name], theirs.tasks[name]
        reasons += [
            f"{name}: {key} differ: {getattr(our, key)} and {getattr(their, key)}"
            for key in ("queries", "candidates", "metric")
            if getattr(our, key) != getattr(their, key)
        ]
    return reasons


def holm(p_values: Values) -> Values:
    """Returns the p-values adjusted for the number of tests, in the same order."""
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def mcnemar(ours: Values, theirs: Values) -> float | None:
    """Returns the exact two-sided p-value of hits and misses on the same queries; None if a value is neither."""
    if not np.isin([ours, theirs], (0, 1)).all():
        return None
    won, lost = int((ours > theirs).sum()), int((ours < theirs).sum())
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5)))


def flipped_means(values: Values, samples: int, generator: np.random.Generator) -> Values:
    """Returns `(samples,)` means of `values` with random signs; draws how many of each different size are positive."""
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    positive = (generator.binomial(counts, 0.5, size=(size, len(counts))) for size in _blocks(samples, len(counts)))
    return np.concatenate([(2 * block - counts) @ sizes for block in positive]) / len(values)


class _PValues(NamedTuple):
    worse: float
    different: float
    mcnemar: float | None


@dataclass(frozen=True)
class _Paired:
    """The values of the queries of one set or several, and the mean differences with random signs `(samples,)`."""

    name: str
    ours: tuple[Values, ...]
    theirs: tuple[Values, ...]
    chance: Values

    @property
    def means(self) -> tuple[float, float]:
        our, their = (float(np.mean([each.mean() for each in side])) for side in (self.ours, self.theirs))
        return our, their

    def only(self, mask: Mask | None, samples: int, generator: np.random.Generator) -> _Paired:
        """Returns the same of those queries of one set that the mask names; None names all."""
        if mask is None:
            return self
        (ours,), (theirs,) = self.ours, self.theirs
        differences = ours[mask] - theirs[mask]
        return _Paired(self.name, (ours[mask],), (theirs[mask],), flipped_means(differences, samples, generator))


def _paired(name: str, our: TaskScore, their: TaskScore, samples: int, generator: np.random.Generator) -> _Paired:
    ours, theirs = np.array(our.values), np.array(their.values)
    return _Paired(name, (ours,), (theirs,), flipped_means(ours - theirs, samples, generator))


def _overall(name: str, sets: Sequence[_Paired]) -> _Paired:
    ours, theirs = (tuple(each.ours[0] for each in sets), tuple(each.theirs[0] for each in sets))
    return _Paired(name, ours, theirs, np.mean([each.chance for each in sets], axis=0))


def _p_values(paired: _Paired) -> _PValues:
    ours, theirs = paired.means
    found, chance = ours - theirs, paired.chance
    as_low, as_far = chance <= found + ROUNDING, np.abs(chance) >= abs(found) - ROUNDING
    worse, different = (float(1 + extreme.sum()) / (1 + len(chance)) for extreme in (as_low, as_far))
    return _PValues(worse, different, mcnemar(np.concatenate(paired.ours), np.concatenate(paired.theirs)))


def _adjusted(tests: Sequence[_Paired], confidence: float) -> tuple[Difference, ...]:
    """Returns the differences of several tests, their p-values adjusted by Holm over all of them."""
    p_values = [_p_values(each) for each in tests]
    adjusted = map(_PValues, *map(_over_tests, zip(*p_values, strict=True))) if tests else ()
    return tuple(_difference(*row, confidence) for row in zip(tests, p_values, adjusted, strict=True))


def _over_tests(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns the p-values adjusted over those that exist."""
    adjusted = iter(holm(np.array([p for p in p_values if p is not None])).tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def _difference(paired: _Paired, p: _PValues, adjusted: _PValues, confidence: float) -> Difference:
    ours, theirs = paired.means
    differences = [our - their for our, their in zip(paired.ours, paired.theirs, strict=True)]
    lower, upper = map(float, difference_interval(differences, confidence))
    shown = adjusted.different <= 1 - confidence and not lower <= 0 <= upper
    return Difference(
        name=paired.name,
        queries=sum(map(len, differences)),
        ours=ours,
        theirs=theirs,
        difference=ours - theirs,
        lower=lower,
        upper=upper,
        p_worse=p.worse,
        p_different=p.different,
        mcnemar=p.mcnemar,
        p_worse_holm=adjusted.worse,
        p_different_holm=adjusted.different,
        mcnemar_holm=adjusted.mcnemar,
        verdict="no difference shown" if not shown else "better" if ours > theirs else "worse",
    )


def _blocks(samples: int, cells: int) -> Iterator[int]:
    """Yields how many samples to draw at once, so that memory does not grow with the queries."""
    size = max(1, CELLS_PER_BLOCK // cells)
    for start in range(0, samples, size):
        yield min(size, samples - start)
