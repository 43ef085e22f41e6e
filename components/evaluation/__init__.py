"""MMEB scoring: `evaluate` scores a model on all evaluation sets, `run` is the stage, `table` shows the scores.

Where a set, a vector or a label is missing or broken there is no score; a tie counts as its expected value.
"""

from components.evaluation.aggregate import aggregates, overall_interval, require_complete
from components.evaluation.report import SCORER, Scores, TaskScore, evaluate, table
from components.evaluation.scoring import Hits, hit_at_1
from components.evaluation.sets import EvaluationSet, Pool, Suite, read_suite
from components.evaluation.stage import parameters, run

__all__ = [
    "SCORER",
    "EvaluationSet",
    "Hits",
    "Pool",
    "Scores",
    "Suite",
    "TaskScore",
    "aggregates",
    "evaluate",
    "hit_at_1",
    "overall_interval",
    "parameters",
    "read_suite",
    "require_complete",
    "run",
    "table",
]
