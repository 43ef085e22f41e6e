import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.errors import EmbedlineError, UsageError
from components.progress import Progress
from components.training.config import EarlyStopping, Phase, Schedule
from components.training.dev_scores import DevScores, trained_state
from components.training.loop import (
    freeze,
    learning_rate_fraction,
    parameter_groups,
    set_training,
    train,
)

from .conftest import ignored

MakeSchedule = Callable[..., Schedule]


class Distance:
    """A objective that pulls every weight of the parts to 1."""

    def __init__(self, parts: Mapping[str, nn.Linear], broken: Callable[[], Tensor] | None = None) -> None:
        self.parts = parts
        self.broken = broken
        self.seen: list[Tensor] = []

    def losses(self, step: int) -> dict[str, Tensor]:
        found = {name: ((part.weight - 1) ** 2).sum() for name, part in self.parts.items()}
        if self.broken and step == 3:
            self.seen.append(next(iter(self.parts.values())).weight.detach().clone())
            found["bad"] = self.broken()
        return found

    def watch(self) -> Mapping[str, float]:
        return {"watched": 7.0}

    def keep_batch(self, step: int) -> Path:
        return Path(f"batch-{step}")


def phase(**rates: float) -> Phase:
    return Phase.model_validate({"lr_multipliers": rates, "losses": [{"name": "contrastive", "temperature": 0.1}]})


def linear() -> nn.Linear:
    part = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(part.weight)
    return part


def run(module: nn.Module, objective: Distance, schedule: Schedule, folder: Path, report: Progress = ignored) -> None:
    train(module, phase(), objective, schedule, folder / "checkpoint.pt", report)


def test_the_learning_rate_rises_then_falls_as_half_a_cosine(make_schedule: MakeSchedule) -> None:
    schedule = make_schedule(steps=110, warmup_fraction=10 / 110)
    shares = [learning_rate_fraction(step, schedule) for step in range(110)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0 == max(shares)
    assert shares[60] == pytest.approx(0.5) and shares[35] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert shares[10:] == sorted(shares[10:], reverse=True) and 0 < shares[-1] < 0.001
    assert learning_rate_fraction(0, make_schedule(warmup_fraction=0.0)) == 1.0
    assert learning_rate_fraction(5, make_schedule(warmup_fraction=1.0)) == 1.0


def test_every_part_learns_at_its_own_rate(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    both = nn.ModuleDict({"fast": linear(), "slow": linear()})
    objective = Distance({"fast": both["fast"], "slow": both["slow"]})  # type: ignore[dict-item]
    schedule = make_schedule(steps=1, warmup_fraction=0.0, weight_decay=0.0)
    losses: list[float] = []
    train(
        both,
        phase(slow=0.1),
        objective,
        schedule,
        tmp_path / "checkpoint.pt",
        lambda step, metrics: losses.append(metrics["loss"]),
    )
    fast, slow = (part.weight.detach().flatten().tolist() for part in objective.parts.values())
    assert fast == pytest.approx([0.01] * 6, rel=1e-3) and slow == pytest.approx([0.001] * 6, rel=1e-3)
    assert losses == pytest.approx([12.0]) and not both.training


def test_the_first_rate_that_fits_a_name_counts_and_what_losses_learn_does_not_decay(
    make_schedule: MakeSchedule,
) -> None:
    module = nn.ModuleDict({"tower": nn.ModuleDict({"head": linear(), "body": linear()}), "losses": linear()})
    schedule = make_schedule(learning_rate=0.1, weight_decay=0.5)
    groups = parameter_groups(module, phase(head=0.5, tower=0.2), schedule)
    named = {name: parameter for name, parameter in module.named_parameters()}
    found = {
        name: [group["lr"], group["weight_decay"]]
        for group in groups
        for name in named
        if any(named[name] is parameter for parameter in group["params"])
    }
    assert found == {
        "tower.head.weight": pytest.approx([0.05, 0.5]),
        "tower.body.weight": pytest.approx([0.02, 0.5]),
        "losses.weight": pytest.approx([0.1, 0.0]),
    }


def test_a_rate_for_a_name_that_no_parameter_has_is_refused_with_those_there_are(make_schedule: MakeSchedule) -> None:
    module = nn.ModuleDict({"tower": linear()})
    assert parameter_groups(module, phase(tower=0.5), make_schedule())
    with pytest.raises(UsageError, match="towr: no parameter") as raised:
        parameter_groups(module, phase(tower=0.5, towr=0.5), make_schedule())
    assert "tower.weight" in raised.value.remedy


def test_what_has_a_rate_of_zero_or_may_not_learn_is_frozen_and_keeps_its_mode() -> None:
    module = nn.ModuleDict(
        {
            "open": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)),
            "shut": nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)),
            "base": nn.Linear(2, 2),
        }
    )
    learns = {name for name, _ in module.named_parameters() if not name.startswith("base")}
    freeze(module, phase(shut=0.0), learns)
    assert {name for name, one in module.named_parameters() if one.requires_grad} == {"open.0.weight", "open.0.bias"}
    set_training(module.eval())
    training = {name for name, part in module.named_modules() if part.training}
    assert training == {"", "open", "open.0", "open.1"}
    freeze(module, phase(), learns)
    assert module["shut"][0].weight.requires_grad, "what one phase freezes may learn in the next"  # type: ignore[index]
    set_training(module)
    assert module["shut"][0].training  # type: ignore[index]


def test_a_checkpoint_holds_what_learns_and_all_statistics() -> None:
    module = nn.ModuleDict({"open": nn.Linear(2, 2), "shut": nn.BatchNorm1d(2)})
    freeze(module, phase(shut=0.0), {name for name, _ in module.named_parameters()})
    statistics = {f"shut.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(trained_state(module)) == {"open.weight", "open.bias"} | statistics


def test_progress_is_reported_at_its_interval_and_at_the_end(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    module = linear()
    reported: dict[int, Mapping[str, float]] = {}
    schedule = make_schedule(steps=7, log_every=3)
    run(
        module,
        Distance({"distance": module}),
        schedule,
        tmp_path,
        lambda step, metrics: reported.update({step: metrics}),
    )
    assert list(reported) == [3, 6, 7]
    assert (
        reported[7]["loss"] < reported[3]["loss"] and reported[7]["seconds_left"] == 0 and reported[7]["watched"] == 7
    )
    assert {"loss", "loss/distance", "gradient_norm", "learning_rate", "pairs_per_second"} < set(reported[3])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_is_refused_before_a_weight_changes(
    kind: str, make_schedule: MakeSchedule, tmp_path: Path
) -> None:
    module = linear()
    broken: dict[str, Callable[[], Tensor]] = {
        "loss": lambda: module.weight.sum() * torch.inf,
        "gradient": lambda: (module.weight.sum() * 0).sqrt(),
    }
    objective = Distance({"distance": module}, broken[kind])
    with pytest.raises(EmbedlineError, match="not finite at step 3") as raised:
        run(module, objective, make_schedule(checkpoint_every=4), tmp_path)
    assert torch.equal(module.weight, objective.seen[0]) and len(objective.seen) == 1
    assert "learning_rate" in raised.value.remedy and "bad" in raised.value.problem
    assert "its batch is in batch-3" in raised.value.problem and "\n" not in raised.value.problem
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_half_written_checkpoint_is_not_resumed_from(make_schedule: MakeSchedule, tmp_path: Path) -> None:
    weights = []
    for folder, rubbish in (("whole", False), ("half", True)):
        torch.manual_seed(0)
        module = nn.Linear(3, 2, bias=False)
        (tmp_path / folder).mkdir()
        if rubbish:
            (tmp_path / folder / ".checkpoint.pt.partial").write_bytes(b"half")
        run(module, Distance({"distance": module}), make_schedule(), tmp_path / folder)
        weights.append(module.weight.detach())
        assert [file.name for file in (tmp_path / folder).iterdir()] == ["checkpoint.pt"]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("scores", "patience", "stops_at", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, 12, 12),
        ([0.5, 0.4, 0.6, 0.7], 1, 6, 3),
        ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 12, 9),
        ([0.5, 0.5, 0.5, 0.9], 2, 9, 3),
    ],
)
def test_training_stops_when_no_score_is_better_and_keeps_the_best(
    scores: list[float], patience: int, stops_at: int, best: int, make_schedule: MakeSchedule, tmp_path: Path
) -> None:
    module, steps, objective = linear(), list[int](), iter(scores)
    kept: dict[int, Tensor] = {}

    def report(step: int, metrics: Mapping[str, Any]) -> None:
        steps.append(step)
        if "dev_score" in metrics:
            assert not module.training, "a model is scored as it will be used"
            kept[step] = module.weight.detach().clone()

    dev_scores = DevScores(EarlyStopping(every=3, patience=patience), lambda: next(objective), tmp_path / "best")
    distance = Distance({"distance": module})
    train(module, phase(), distance, make_schedule(steps=12), tmp_path / "checkpoint.pt", report, dev_scores)
    assert steps[-1] == stops_at and torch.equal(module.weight, kept[best])
