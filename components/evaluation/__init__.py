"""MMEB scoring: `evaluate` scores a model on a suite of sets, `score_all` several, `table` shows the scores.

Where a set, a vector or a label is missing or broken there is no score; a tie counts as its expected value.
`suites` and `probes` hold further suites, `reports` what scores are shown as, `mteb_model` the way to mteb's tasks.
"""

from components.evaluation.aggregate import aggregates, overall_interval, require_complete
from components.evaluation.benchmark import Benchmark, Task, known_benchmarks, read_benchmark
from components.evaluation.dev_score import DevScorer
from components.evaluation.metrics import Ranks
from components.evaluation.report import BATCHES_PER_CHUNK, evaluate, score, table
from components.evaluation.score_all import parameters, score_all
from components.evaluation.scoring import Cosine, ranks
from components.evaluation.sets import EvaluationSet, Pool, Suite, read_suite
from components.evaluation.vectors import AnyEmbedder, Done, Progress, Side, cached_vectors, dimension

__all__ = [
    "BATCHES_PER_CHUNK",
    "AnyEmbedder",
    "Benchmark",
    "Cosine",
    "DevScorer",
    "Done",
    "EvaluationSet",
    "Pool",
    "Progress",
    "Ranks",
    "Side",
    "Suite",
    "Task",
    "aggregates",
    "cached_vectors",
    "dimension",
    "evaluate",
    "known_benchmarks",
    "overall_interval",
    "parameters",
    "ranks",
    "read_benchmark",
    "read_suite",
    "require_complete",
    "score",
    "score_all",
    "table",
]
