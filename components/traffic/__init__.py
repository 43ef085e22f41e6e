"""Recorded requests: what one is, how it is written off the request path, and how a window of them is read again."""

from components.traffic.schema import Feedback, Request, feedback_table, request_table
from components.traffic.window import Window, read_column, read_feedback, read_requests, read_window
from components.traffic.writer import TrafficWriter, forget

__all__ = [
    "Feedback",
    "Request",
    "TrafficWriter",
    "Window",
    "feedback_table",
    "forget",
    "read_column",
    "read_feedback",
    "read_requests",
    "read_window",
    "request_table",
]
