"""What others measured on MMEB v1, set by set, to be shown beside our scores."""

from __future__ import annotations

import csv

from components.evaluation.benchmark import TABLES

ABOUT_THE_SET = ("dataset", "split")


def published() -> dict[str, dict[str, float]]:
    """Returns hit@1, 0 to 1, of each published model on each of the 36 sets.

    Source: `figures/detailed_results.png` of VLM2Vec (branch v1), in percent with one decimal.
    """
    with (TABLES / "mmeb-v1-published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    models = [column for column in rows[0] if column not in ABOUT_THE_SET]
    return {model: {row["dataset"]: float(row[model]) / 100 for row in rows} for model in models}
