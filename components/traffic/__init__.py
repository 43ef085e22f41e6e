"""Recorded requests: what one is, how it is written off the request path, and how a window of them is read again."""

from components.traffic.labelled import Labelled, keep, labelled
from components.traffic.schema import Feedback, Request, feedback_table, request_table
from components.traffic.window import Window, read_column, read_feedback, read_requests, read_window
from components.traffic.writer import TrafficWriter, forget

__all__ = [
    "Feedback",
    "Labelled",
    "Request",
    "TrafficWriter",
    "Window",
    "feedback_table",
    "forget",
    "keep",
    "labelled",
    "read_column",
    "read_feedback",
    "read_requests",
    "read_window",
    "request_table",
]
