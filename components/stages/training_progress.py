"""What a training stage reports while it runs: a line on the screen, and metrics over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from components.progress import say

if TYPE_CHECKING:
    from components.registry.tracking import Run
    from components.training.config import Recipe


def progress(run: Run, recipe: Recipe) -> Callable[[int, Mapping[str, float]], None]:
    """Returns what `train_model` calls with a step and its metrics."""
    steps = recipe.schedule.steps

    def report(step: int, metrics: Mapping[str, float]) -> None:
        run.log_metrics(metrics, step)
        if "loss" in metrics:
            say(
                f"step {step} of {steps}: loss {metrics['loss']:.3f}, {metrics['pairs_per_second']:.0f} pairs/s, "
                f"{metrics['seconds_left']:.0f} s left"
            )
        else:
            say(f"step {step} of {steps}: dev score {metrics['dev_score']:.3f}")

    return report
