"""What the processes do that `test_kills.py` kills."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

from components.registry import approval, promotion, tracking
from components.stages.prune import Served, prune
from components.storage import Storage
from tests.registry.made_up import verdicts


def act(root: Path, what: str, version: str, most_bytes: int | None = None) -> None:
    """Does one thing in a workspace; where `most_bytes` is given no file can become longer than that."""
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    tracked = tracking.prepare(root)
    if what == "promote":
        promotion.promote(tracked, version, *verdicts(tracked, version), "it is better")
    elif what == "approve":
        approval.ask(tracked, version, *verdicts(tracked, version))
        approval.approve(tracked, version, "Ada", "it is better")
    elif what == "rollback":
        promotion.rollback(tracked, "it is worse")
    else:
        prune(root, Storage(keep_champions=1), Served)
