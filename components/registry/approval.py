"""A person's word after both blessings: the candidate waits, and somebody lets it in or sends it away, by name."""

from __future__ import annotations

from components.errors import EmbedlineError, UsageError
from components.registry import models, promotion
from components.registry.gate import Verdict
from components.registry.models import Roles
from components.registry.tracking import Tracking

AWAITS = "awaits_approval"
"""The tag of a version that waits: the digests of its two verdicts."""


def ask(tracking: Tracking, version: str, quality: Verdict, infrastructure: Verdict) -> None:
    """Keeps both verdicts, and marks the version as one that waits. Raises `Refused` unless both passed."""
    quality.require()
    infrastructure.require()
    digests = [verdict.write(tracking.root / promotion.VERDICTS).stem for verdict in (quality, infrastructure)]
    tracking.client.set_model_version_tag(tracking.model, version, AWAITS, " ".join(digests))


def waiting(tracking: Tracking) -> list[str]:
    """Returns the versions that wait: the challenger, if it does."""
    challenger = models.role(tracking, "challenger")
    return [challenger] if challenger and AWAITS in models.facts(tracking, challenger) else []


def approve(tracking: Tracking, version: str, by: str, reason: str) -> Roles:
    """Makes a version that waits the champion; the ledger says who let it in and why. Returns the roles.

    Raises `UsageError` if it does not wait, `Refused` if the champion has changed since it was compared with it.
    """
    quality, infrastructure = verdicts(tracking, version)
    why = f"approved by {_named(by, reason)}. {quality.sentence}".strip()
    roles = promotion.promote(tracking, version, quality, infrastructure, why)
    tracking.client.delete_model_version_tag(tracking.model, version, AWAITS)
    return roles


def reject(tracking: Tracking, version: str, by: str, reason: str) -> Roles:
    """Sends a version that waits away, for good; the ledger says who and why. Returns the roles."""
    verdicts(tracking, version)
    roles = promotion.reject(tracking, version, f"rejected by {_named(by, reason)}")
    tracking.client.delete_model_version_tag(tracking.model, version, AWAITS)
    return roles


def verdicts(tracking: Tracking, version: str) -> tuple[Verdict, Verdict]:
    """Returns what the quality and the infrastructure gate said of a version that waits.

    Raises `UsageError` if it does not wait, `EmbedlineError` if a verdict was changed.
    """
    digests = models.facts(tracking, version).get(AWAITS, "").split()
    if not digests or version not in waiting(tracking):
        raise UsageError(
            f"version {version} waits for nobody's approval",
            f"These wait: {', '.join(waiting(tracking)) or 'none'}. `embedline run` makes candidates.",
        )
    quality, infrastructure = (
        Verdict.read(tracking.root / promotion.VERDICTS / f"{digest}.json") for digest in digests
    )
    if [quality.digest, infrastructure.digest] != digests:
        raise EmbedlineError(f"a verdict about version {version} was changed", "Judge it again: `embedline run`.")
    return quality, infrastructure


def _named(by: str, reason: str) -> str:
    if not by.strip() or not reason.strip():
        raise UsageError("who decides and why is not said", "Give --by NAME and --reason TEXT.")
    return f"{by.strip()}: {reason.strip()}"
