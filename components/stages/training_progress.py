"""What a training stage reports while it runs: a line on the screen, and metrics over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from components.progress import Progress, print_progress

if TYPE_CHECKING:
    from components.registry.tracking import Run
    from components.training.config import Recipe


def progress(run: Run, recipe: Recipe) -> Progress:
    """Returns what `train_model` calls with a step and its metrics; first with what the data decide of the schedule."""
    asked = recipe.schedule.batch_size
    steps = recipe.schedule.steps
    print_progress(f"computes in {precision_here(recipe)}")

    def report(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal steps
        run.log_metrics(metrics, step)
        if "steps" in metrics:
            steps, size = int(metrics["steps"]), int(metrics["batch_size"])
            fewer = "" if size == asked else f", not {asked}: the data have no more"
            print_progress(f"{steps} steps with {size} pairs each{fewer}")
        elif "loss" in metrics:
            print_progress(
                f"step {step} of {steps}: loss {metrics['loss']:.3f}, {metrics['pairs_per_second']:.0f} pairs/s, "
                f"{metrics['seconds_left']:.0f} s left"
            )
        else:
            print_progress(f"step {step} of {steps}: dev score {metrics['dev_score']:.3f}")

    return report


def precision_here(recipe: Recipe) -> str:
    """Returns what the recipe's precision means on this machine."""
    import torch
    from sentence_transformers.util import get_device_name

    from components.embedder.dual_encoder import is_bfloat16

    return "bfloat16" if is_bfloat16(recipe.schedule.precision, torch.device(get_device_name())) else "float32"
