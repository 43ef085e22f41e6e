"""Verdicts that a test wrote down."""

from __future__ import annotations

from components.registry import Verdict, models
from components.registry.tracking import Tracking


def verdicts(tracked: Tracking, version: str) -> tuple[Verdict, Verdict]:
    """Returns the two verdicts by which a version passes against the present champion, whatever it is like."""
    champion = models.role(tracked, "champion")
    against = models.facts(tracked, champion) if champion else {}
    tags = models.facts(tracked, version)
    return (
        Verdict("quality", tags["model_fingerprint"], against.get("model_fingerprint"), (), (), {}),
        Verdict("infrastructure", tags["fingerprint"], against.get("fingerprint"), (), (), {}),
    )
