import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.config import Schedule
from components.errors import EmbedlineError
from components.training.loop import Group, Losses, learning_rate_share, train

MakeSchedule = Callable[..., Schedule]


def ignore(step: int, metrics: Mapping[str, float]) -> None: ...


def distance(module: nn.Linear) -> Losses:
    """A loss that pulls every weight to 1."""
    return lambda step: {"distance": ((module.weight - 1) ** 2).sum()}


def test_the_learning_rate_rises_then_falls_as_half_a_cosine(make_schedule: MakeSchedule) -> None:
    schedule = make_schedule(steps=110, warmup_share=10 / 110)
    shares = [learning_rate_share(step, schedule) for step in range(110)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0 == max(shares)
    assert shares[60] == pytest.approx(0.5) and shares[35] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert shares[10:] == sorted(shares[10:], reverse=True) and 0 < shares[-1] < 0.001
    assert learning_rate_share(0, make_schedule(warmup_share=0.0)) == 1.0
    assert learning_rate_share(5, make_schedule(warmup_share=1.0)) == 1.0


def test_every_group_learns_at_its_own_rate(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    module = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(module.weight)
    slow = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(slow.weight)
    both = nn.ModuleList([module, slow])
    schedule = make_schedule(steps=1, warmup_share=0.0, weight_decay=0.0)
    rates: list[float] = []

    def losses(step: int) -> dict[str, Tensor]:
        return {**distance(module)(step), "other": distance(slow)(step)["distance"]}

    train(
        both,
        [Group(list(module.parameters())), Group(list(slow.parameters()), 0.1)],
        losses,
        schedule,
        tmp_path / "checkpoint.pt",
        lambda step, metrics: rates.append(metrics["loss"]),
    )
    assert module.weight.detach().flatten().tolist() == pytest.approx([0.01] * 6, rel=1e-3)
    assert slow.weight.detach().flatten().tolist() == pytest.approx([0.001] * 6, rel=1e-3)
    assert rates == pytest.approx([12.0]) and not both.training


def test_progress_is_told_at_its_interval_and_at_the_end(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    module, told = nn.Linear(3, 2, bias=False), {}
    schedule = make_schedule(steps=7, log_every=3)
    train(
        module,
        [Group(list(module.parameters()))],
        distance(module),
        schedule,
        tmp_path / "checkpoint.pt",
        lambda step, metrics: told.update({step: metrics}),
    )
    assert list(told) == [3, 6, 7]
    assert told[7]["loss"] < told[3]["loss"] and told[7]["seconds_left"] == 0
    assert {"loss", "loss/distance", "gradient_norm", "learning_rate", "pairs_per_second"} < set(told[3])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_is_refused_before_a_weight_changes(
    kind: str, make_schedule: MakeSchedule, tmp_path: Path
) -> None:
    module = nn.Linear(3, 2, bias=False)
    before: list[Tensor] = []

    def losses(step: int) -> dict[str, Tensor]:
        fine = distance(module)(step)
        if step < 3:
            return fine
        before.append(module.weight.detach().clone())
        return {**fine, "bad": module.weight.sum() * torch.inf if kind == "loss" else (module.weight.sum() * 0).sqrt()}

    schedule = make_schedule(checkpoint_every=4)
    with pytest.raises(EmbedlineError, match="not finite at step 3") as raised:
        train(module, [Group(list(module.parameters()))], losses, schedule, tmp_path / "checkpoint.pt", ignore)
    assert torch.equal(module.weight, before[0]) and len(before) == 1
    assert "learning_rate" in raised.value.remedy and "bad" in raised.value.problem
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_half_written_checkpoint_is_not_resumed_from(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    weights = []
    for folder, rubbish in (("whole", False), ("half", True)):
        torch.manual_seed(0)
        module = nn.Linear(3, 2, bias=False)
        (tmp_path / folder).mkdir()
        if rubbish:
            (tmp_path / folder / ".checkpoint.pt.partial").write_bytes(b"half")
        train(
            module,
            [Group(list(module.parameters()))],
            distance(module),
            make_schedule(),
            tmp_path / folder / "checkpoint.pt",
            ignore,
        )
        weights.append(module.weight.detach())
        assert [file.name for file in (tmp_path / folder).iterdir()] == ["checkpoint.pt"]
    assert torch.equal(*weights)
