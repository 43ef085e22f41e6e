"""The smallest flow there is: that it runs on a schedule proves that schedules run."""

from __future__ import annotations

from prefect import flow


@flow(name="heartbeat")
def heartbeat() -> None:
    """Does nothing."""
