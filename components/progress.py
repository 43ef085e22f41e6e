"""How far a stage is: what a training calls with it, and what is printed."""

from collections.abc import Callable, Mapping

Progress = Callable[[int, Mapping[str, float]], None]
"""Is called with a step and its metrics."""


def print_progress(line: str) -> None:
    """Prints a line at once, whatever reads it."""
    print(line, flush=True)
