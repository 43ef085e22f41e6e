"""The greedy soup of checkpoints: weights are averaged for as long as the score on the dev split does not fall.

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy (2022), recipe 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from components.errors import EmbedlineError, UsageError

State = Mapping[str, Tensor]


def soup(
    states: Sequence[State], scores: Sequence[float], score: Callable[[State], float]
) -> tuple[dict[str, Tensor], list[int]]:
    """Returns the average of the kept states and their numbers, best first; it scores no less than any one of them,
    whose own `scores` are known.

    States are tried from the best to the worst by their own score; one is kept if the average with it scores no less
    than the average without. Whole numbers, such as counts of batches, are the best state's. Raises `UsageError` if
    the states are not of one model, `EmbedlineError` if a state holds, or scores, what is no finite number.
    """
    if not states:
        raise UsageError("there is no checkpoint to average", "Keep at least one.")
    for number, state in enumerate(states):
        _check(number, state, states[0])
    known = [_finite(value, f"the score of checkpoint {number}") for number, value in enumerate(scores)]
    first, *others = sorted(range(len(states)), key=lambda number: -known[number])
    kept, best, average = [first], known[first], dict(states[first])
    for number in others:
        candidate = _average([states[one] for one in [*kept, number]])
        found = _finite(score(candidate), f"the score of the average with checkpoint {number}")
        if found >= best:
            kept, best, average = [*kept, number], found, candidate
    return average, kept


def _average(states: Sequence[State]) -> dict[str, Tensor]:
    return {
        name: torch.stack([state[name] for state in states]).mean(0, dtype=torch.float64).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def _check(number: int, state: State, reference: State) -> None:
    shapes, expected = ({name: value.shape for name, value in one.items()} for one in (state, reference))
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise UsageError(
                f"checkpoints 0 and {number} are not of the same model: {name} differs",
                "Average checkpoints of one training only.",
            )
        if not torch.isfinite(state[name]).all():
            raise EmbedlineError(
                f"checkpoint {number} holds numbers in {name} that are not finite", "Leave this checkpoint out."
            )


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise EmbedlineError(f"{what} is {value}", "Look at what the checkpoint was scored on.")
    return value
