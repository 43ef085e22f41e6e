"""Scores: the typed score file of one model, and the one comparison of two of them."""

from components.scores.comparison import Comparison, Difference, compare, unlike
from components.scores.file import SCORER, Model, Scores, TaskScore, Tie, defects
from components.scores.intervals import difference_interval, mean_interval, median_interval

__all__ = [
    "SCORER",
    "Comparison",
    "Difference",
    "Model",
    "Scores",
    "TaskScore",
    "Tie",
    "compare",
    "defects",
    "difference_interval",
    "mean_interval",
    "median_interval",
    "unlike",
]
