"""What let a version through both gates, kept in MLflow with the round that registered it, where other environments
find it: the scores and both verdicts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException

from components.errors import EmbedlineError, Refused, UsageError
from components.files import folder_sha256
from components.registry import models
from components.registry.gate import Verdict
from components.registry.tracking import Tracking
from components.scores import Scores

EVIDENCE = "evidence"
"""The folder among the files of the round, with one for the version in it, whose SHA-256 is the version's tag."""
SCORES = "scores.json"
CARRIED = ("parity_cosine", "rank_agreement")
"""What was measured against the trained model, which stays where it was trained."""


@dataclass(frozen=True)
class Evidence:
    """The scores of the variant that the bundle ships, with a value a query, and the verdicts of both gates."""

    scores: Scores
    quality: Verdict
    infrastructure: Verdict

    @property
    def carried(self) -> dict[str, float]:
        """What holds for the same bytes anywhere: their agreement with the trained model."""
        return {row["name"]: float(row["value"]) for row in self.infrastructure.table if row["name"] in CARRIED}


def keep(tracking: Tracking, version: str, evidence: Evidence) -> None:
    """Keeps the evidence about a version and marks it as one that passed. Raises `Refused` unless both verdicts did."""
    evidence.quality.require()
    evidence.infrastructure.require()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, EVIDENCE)
        evidence.scores.write(folder / SCORES)
        for verdict in (evidence.quality, evidence.infrastructure):
            verdict.write(folder).rename(folder / f"{verdict.blessing}.json")
        tracking.client.log_artifacts(models.round_of(tracking, version), str(folder), f"{EVIDENCE}/{version}")
        digest = folder_sha256(folder)
    tracking.client.set_model_version_tag(tracking.model, version, EVIDENCE, digest)


def find(tracking: Tracking, version: str) -> Evidence | None:
    """Returns the evidence about a version, None if none is kept. Raises `EmbedlineError` if it was changed,
    `UsageError` if its scores are those of an older scorer."""
    tags = models.facts(tracking, version)
    if EVIDENCE not in tags:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        try:
            run_id = models.round_of(tracking, version)
            folder = Path(tracking.client.download_artifacts(run_id, f"{EVIDENCE}/{version}", temporary))
        except (MlflowException, OSError) as error:
            raise _changed(tracking, version, f"is gone: {error}") from error
        if folder_sha256(folder) != tags[EVIDENCE]:
            raise _changed(tracking, version, "was changed")
        verdicts = (Verdict.read(folder / f"{blessing}.json") for blessing in ("quality", "infrastructure"))
        try:
            found = Evidence(Scores.read(folder / SCORES), *verdicts)
        except UsageError as error:
            raise UsageError(
                f"the scores of version {version} of {tracking.model} are of no use: {error.problem}",
                f"Name a version that a later round in {tracking.environment} has scored.",
            ) from error
    subjects = (found.scores.model.fingerprint, found.quality.subject, found.infrastructure.subject)
    if subjects != (tags["model_fingerprint"], tags["model_fingerprint"], tags["fingerprint"]):
        raise _changed(tracking, version, "is about another model")
    return found


def require(tracking: Tracking, version: str) -> Evidence:
    """Returns the evidence about a version that passed both gates. Raises `Refused` if it did not, or was sent away."""
    found = find(tracking, version)
    if found is None:
        raise Refused(
            f"version {version} of {tracking.model} has not passed both gates, or was rolled back or rejected",
            f"Name one that passed in {tracking.environment}: a round there, `embedline run`, keeps its evidence.",
        )
    found.quality.require()
    found.infrastructure.require()
    return found


def withdraw(tracking: Tracking, version: str) -> None:
    """From now on no other environment takes the version: it was rolled back or rejected."""
    if EVIDENCE in models.facts(tracking, version):
        tracking.client.delete_model_version_tag(tracking.model, version, EVIDENCE)


def _changed(tracking: Tracking, version: str, what: str) -> EmbedlineError:
    return EmbedlineError(
        f"the evidence about version {version} of {tracking.model} {what}",
        "Restore MLflow's artifact store from a backup, or name another version.",
    )
