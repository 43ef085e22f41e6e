"""Sources in, one data set layout out: `ingest` builds `data/`, `read_pairs` and `read_queries` stream it."""

from components.corpus.ingest import ingest, is_current
from components.corpus.item import Item, Pair, Query
from components.corpus.layout import read_pairs, read_queries, task_names
from components.corpus.manifest import EvaluationTask, Input, Manifest, Tasks
from components.corpus.rows import EVAL_SCHEMA, TRAIN_SCHEMA

__all__ = [
    "EVAL_SCHEMA",
    "TRAIN_SCHEMA",
    "EvaluationTask",
    "Input",
    "Item",
    "Manifest",
    "Pair",
    "Query",
    "Tasks",
    "ingest",
    "is_current",
    "read_pairs",
    "read_queries",
    "task_names",
]
