"""Scores as people and others read them: the page, the comparison's table, VLM2Vec's report, what others published."""

from components.evaluation.reports.comparison_table import comparison_table
from components.evaluation.reports.misses import Miss, worst
from components.evaluation.reports.page import report_page, write_page
from components.evaluation.reports.published import published
from components.evaluation.reports.vlm2vec import write_report

__all__ = [
    "Miss",
    "comparison_table",
    "published",
    "report_page",
    "worst",
    "write_page",
    "write_report",
]
