"""The loop of training: steps, learning rate, progress, checkpoints from which a killed run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.config import Schedule
from components.errors import EmbedlineError

CLIP_NORM = 1.0
Report = Callable[[int, Mapping[str, float]], None]


class Losses(Protocol):
    """Returns the parts of one step's loss by name; their sum is minimised. Depends on the step's number alone."""

    def __call__(self, step: int) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Group:
    """Parameters that learn at `rate` times the learning rate of the schedule."""

    parameters: list[nn.Parameter]
    rate: float = 1.0


def train(
    module: nn.Module, groups: list[Group], losses: Losses, schedule: Schedule, checkpoint: Path, report: Report
) -> None:
    """Trains `module` in place, from `checkpoint` if there is one, and leaves it in evaluation mode.

    The weights of a resumed run are bitwise those of an uninterrupted one on the same machine. Raises
    `EmbedlineError` at a loss or gradient that is not finite, before it has changed any weight.
    """
    optimiser = torch.optim.AdamW(
        [{"params": group.parameters, "lr": schedule.learning_rate * group.rate} for group in groups],
        weight_decay=schedule.weight_decay,
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_share(step, schedule))
    start = _resume(checkpoint, module, optimiser, rates) if checkpoint.is_file() else 0
    trained = [parameter for group in groups for parameter in group.parameters]
    module.train()
    began, pairs = time.monotonic(), 0
    for step in range(start, schedule.steps):
        parts = losses(step)
        loss = torch.stack(list(parts.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        if not torch.isfinite(loss + norm):
            values = ", ".join(f"{name} {value.item()}" for name, value in parts.items())
            raise EmbedlineError(
                f"the loss is not finite at step {step}: {values}, gradient norm {norm.item()}",
                "Lower schedule.learning_rate, raise schedule.temperature, or use precision float32.",
            )
        optimiser.step()
        rates.step()
        pairs += schedule.batch_size
        done = step + 1
        if done % schedule.log_every == 0 or done == schedule.steps:
            per_second = pairs / (time.monotonic() - began)
            report(
                done,
                {
                    "loss": loss.item(),
                    **{f"loss/{name}": value.item() for name, value in parts.items()},
                    "gradient_norm": norm.item(),
                    "learning_rate": float(rates.get_last_lr()[0]),
                    "pairs_per_second": per_second,
                    "seconds_left": (schedule.steps - done) * schedule.batch_size / per_second,
                },
            )
        if done % schedule.checkpoint_every == 0:
            _save(checkpoint, done, module, optimiser, rates)
    module.eval()


def learning_rate_share(step: int, schedule: Schedule) -> float:
    """Returns the share of the full rate at a step: a linear rise, then half a cosine down to nothing."""
    warmup = max(1, round(schedule.steps * schedule.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup))) / 2


def _save(path: Path, step: int, module: nn.Module, optimiser: Any, rates: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    trained = {name: value for name, value in module.state_dict().items() if name not in _frozen(module)}
    torch.save(
        {"step": step, "module": trained, "optimiser": optimiser.state_dict(), "rates": rates.state_dict()}, partial
    )
    partial.replace(path)


def _resume(path: Path, module: nn.Module, optimiser: Any, rates: Any) -> int:
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"], strict=False)
    optimiser.load_state_dict(state["optimiser"])
    rates.load_state_dict(state["rates"])
    return int(state["step"])


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
