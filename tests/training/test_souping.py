from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from components.errors import EmbedlineError, UsageError
from components.training import souping

State = Mapping[str, Tensor]
GOAL = torch.tensor([1.0, 2.0])


def nearness(state: State) -> float:
    return -float((state["weight"] - GOAL).norm())


def of(*weight: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor(weight)}


def soup(states: Sequence[State], score: Callable[[State], float]) -> tuple[dict[str, Tensor], list[int]]:
    return souping.soup(states, [score(state) for state in states], score)


def test_the_average_of_those_that_help_is_returned() -> None:
    states = [of(9.0, 9.0), of(1.5, 2.0), of(0.3, 2.0), of(1.0, 2.9)]
    average, kept = soup(states, nearness)
    assert kept == [1, 2], "around the goal; the third lies aside, the first far off"
    torch.testing.assert_close(average["weight"], torch.tensor([0.9, 2.0]))
    assert kept != sorted(range(4), key=lambda number: -nearness(states[number])), "it is not the average of all"


def test_the_first_that_is_kept_is_the_best_wherever_it_stands() -> None:
    average, kept = soup([of(9.0, 9.0), of(1.0, 2.0)], nearness)
    assert kept == [1] and torch.equal(average["weight"], GOAL)


def test_an_equal_score_is_no_reason_to_leave_a_checkpoint_out() -> None:
    assert soup([of(1.0, 2.0), of(3.0, 2.0)], lambda state: 0.5)[1] == [0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_it_never_scores_less_than_the_best_single(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = [{"weight": GOAL + torch.randn(2, generator=generator)} for _ in range(6)]

    def bumpy(state: State) -> float:
        return nearness(state) + float(torch.sin(40 * state["weight"].sum()))

    average, kept = soup(states, bumpy)
    assert bumpy(average) >= max(bumpy(state) for state in states)
    torch.testing.assert_close(average["weight"], torch.stack([states[one]["weight"] for one in kept]).mean(0))


def test_what_is_known_is_not_scored_again() -> None:
    asked: list[State] = []
    states = [of(1.2, 2.0), of(0.9, 2.0), of(9.0, 9.0)]
    souping.soup(states, [nearness(state) for state in states], lambda state: asked.append(state) or nearness(state))
    assert len(asked) == 2, "the two averages with another one"


def test_whole_numbers_are_those_of_the_best_and_types_stay() -> None:
    states = []
    for batches in (3, 8):
        module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2, dtype=torch.bfloat16))
        module[0].num_batches_tracked.fill_(batches)
        module[0].running_mean.fill_(batches)
        states.append(module.state_dict())
    before = [{name: value.clone() for name, value in state.items()} for state in states]
    average, kept = soup(states, lambda state: float(state["0.num_batches_tracked"]))
    assert kept == [1, 0]
    assert average["0.num_batches_tracked"].item() == 8 and average["0.running_mean"].tolist() == [5.5, 5.5]
    assert {name: value.dtype for name, value in average.items()} == {
        name: value.dtype for name, value in states[0].items()
    }
    for state, copy in zip(states, before, strict=True):
        assert all(torch.equal(value, copy[name]) for name, value in state.items()), "what was given is as it was"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(EmbedlineError, match="checkpoint 1 holds numbers in weight that are not finite"):
        soup([of(1.0, 2.0), of(1.0, bad)], nearness)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(EmbedlineError, match="score of checkpoint 0 is nan"):
        soup([of(1.0, 2.0)], lambda state: float("nan"))


@pytest.mark.parametrize("other", [of(1.0), {"bias": torch.zeros(2)}, {}])
def test_checkpoints_of_different_models_are_refused(other: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="0 and 1 are not of the same model"):
        souping.soup([of(1.0, 2.0), other], [0.0, 0.0], nearness)
    with pytest.raises(UsageError, match="no checkpoint"):
        soup([], nearness)
