"""The loop of training: steps, learning rate, progress, checkpoints from which a killed run goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.errors import EmbedlineError, UsageError
from components.files import atomic_file
from components.progress import Progress
from components.training import processes
from components.training.config import Phase, Planned, Schedule
from components.training.dev_scores import DevScores, trained_state

CLIP_NORM = 1.0
MOST_PROCESSES = 4096  # each draws its own random numbers, the same in a run that goes on
LOSSES = "losses."  # what the names of the losses' own parameters begin with


class Objective(Protocol):
    """What a training minimises, and what it says of itself."""

    def losses(self, step: int) -> dict[str, Tensor]:
        """Returns the parts of one step's loss by name; their sum is minimised. They depend on the step alone."""
        ...

    def watch(self) -> Mapping[str, float]:
        """Returns what else is worth a curve, of the last step."""
        ...

    def keep_batch(self, step: int) -> Path:
        """Writes the batch of a step to a file for people to read, and returns the file."""
        ...


def train(
    module: nn.Module,
    phase: Phase,
    objective: Objective,
    schedule: Planned,
    checkpoint: Path,
    report: Progress,
    dev_scores: DevScores | None = None,
) -> None:
    """Trains `module` in place, from `checkpoint` if there is one, and leaves it in evaluation mode.

    The weights of a resumed run are bitwise those of an uninterrupted one on the same machine. Raises
    `EmbedlineError` at a loss or gradient that is not finite, before it has changed any weight.
    """
    groups = parameter_groups(module, phase, schedule)
    trained = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, fused=True)  # on a CPU, five times as fast as the default
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_fraction(step, schedule))
    start = _resume(checkpoint, module, optimiser, rates, dev_scores) if checkpoint.is_file() else 0
    set_training(module)
    began, step = time.monotonic(), start
    while step < schedule.steps and not (dev_scores and dev_scores.are_exhausted):
        torch.manual_seed((schedule.seed * 1_000_003 + step) * MOST_PROCESSES + processes.rank())
        parts = objective.losses(step)
        loss = torch.stack(list(parts.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        if not torch.isfinite(loss + norm):
            values = ", ".join(f"{name} {value.item()}" for name, value in parts.items())
            raise EmbedlineError(
                f"the loss is not finite at step {step}: {values}, gradient norm {norm.item()}; "
                f"its batch is in {objective.keep_batch(step)}",
                "Lower schedule.learning_rate, raise the losses' temperatures, or use precision float32.",
            )
        optimiser.step()
        rates.step()
        step += 1
        if step % schedule.log_every == 0 or step == schedule.steps:
            per_second = (step - start) * schedule.batch_size / (time.monotonic() - began)
            report(
                step,
                {
                    "loss": loss.item(),
                    **{f"loss/{name}": value.item() for name, value in parts.items()},
                    "gradient_norm": norm.item(),
                    "learning_rate": float(rates.get_last_lr()[0]),
                    "pairs_per_second": per_second,
                    "seconds_left": (schedule.steps - step) * schedule.batch_size / per_second,
                    **objective.watch(),
                },
            )
        if dev_scores and step % dev_scores.every == 0:
            module.eval()
            report(step, {"dev_score": dev_scores.add(step, module)})
            set_training(module)
        if step % schedule.checkpoint_every == 0 or step == schedule.steps:
            _save(checkpoint, step, module, optimiser, rates, dev_scores)
    module.eval()
    if dev_scores:
        dev_scores.restore_best(module)


def parameter_groups(module: nn.Module, phase: Phase, schedule: Schedule) -> list[dict[str, Any]]:
    """Returns the parameters that learn, with their rates, as an optimiser takes them. What a loss learns, such as a
    temperature, does not decay (Radford et al., CLIP, 2021).

    Raises `UsageError` if a part of a name that the phase gives a rate to is in no parameter's name.
    """
    names = [name for name, _ in module.named_parameters()]
    for part in phase.lr_multipliers:
        if not any(part in name for name in names):
            parts = sorted({".".join(name.split(".")[:3]) for name in names})
            raise UsageError(
                f"phases.lr_multipliers: {part}: no parameter has that in its name", f"There are: {parts}."
            )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_rate(name, phase), not name.startswith(LOSSES)), []).append(parameter)
    return [
        {"params": parameters, "lr": schedule.learning_rate * rate, "weight_decay": schedule.weight_decay * decays}
        for (rate, decays), parameters in groups.items()
    ]


def freeze(module: nn.Module, phase: Phase, learns: Collection[str]) -> None:
    """Lets those parameters of `learns` learn to which the phase gives a rate above 0."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learns and _rate(name, phase) > 0)


def _rate(name: str, phase: Phase) -> float:
    return next((rate for part, rate in phase.lr_multipliers.items() if part in name), 1.0)


def set_training(module: nn.Module) -> None:
    """Puts all but frozen parts in training mode: the statistics of a frozen normalisation stay what they are."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def learning_rate_fraction(step: int, schedule: Planned) -> float:
    """Returns the share of the full rate at a step: a linear rise, then half a cosine down to nothing."""
    warmup = max(1, round(schedule.steps * schedule.warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, schedule.steps - warmup))) / 2


def _save(path: Path, step: int, module: nn.Module, optimiser: Any, rates: Any, dev_scores: DevScores | None) -> None:
    if not processes.is_first():
        return
    state = {
        "step": step,
        "module": trained_state(module),
        "optimiser": optimiser.state_dict(),
        "rates": rates.state_dict(),
        "dev_scores": dev_scores.scores if dev_scores else {},
    }
    with atomic_file(path) as partial:
        torch.save(state, partial)


def _resume(path: Path, module: nn.Module, optimiser: Any, rates: Any, dev_scores: DevScores | None) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"], strict=False)
    optimiser.load_state_dict(state["optimiser"])
    rates.load_state_dict(state["rates"])
    if dev_scores:
        dev_scores.scores = dict(state["dev_scores"])
    return int(state["step"])
