"""A version of another environment, copied with its evidence and put through both gates of this one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from components import lineage
from components.config import Config
from components.corpus import Manifest
from components.errors import EmbedlineError, UsageError
from components.export.bundle import require_scored, served_fingerprint
from components.registry import Verdict, compare, evidence, infrastructure, models, promotion, tracking
from components.registry.evidence import Evidence
from components.registry.models import Roles
from components.registry.tracking import Tracking
from components.scores import Scores, unlike
from components.workspace import DATA, STATE
from flows.approve import ask_for_approval
from flows.retrain import measured_beside, score_version, served_as, sliced_rows
from serving.roles import follow_roles

TRAVEL = ("data", "git_commit", "flow_run")
"""The tags of a version that say what it was made from."""


@dataclass(frozen=True)
class Transferred:
    """The number that the version has here, who plays which role now, and what the quality gate said."""

    version: str
    roles: Roles
    quality: str


def transfer(version: str, origin: str, config: Config) -> Transferred:
    """Copies a version of the environment `origin` into this workspace's, where it becomes champion if both gates pass
    again, or waits for `embedline approve`.

    Repeated after it was killed or refused it goes on with the same copy. Raises `Refused` for a version that passed no
    gates there, was rolled back, or does not pass here; `EmbedlineError` if its bytes or its evidence were changed.
    """
    with lineage.lock(Path()):
        tracked = tracking.prepare(Path())
        source = tracking.other(tracked, origin)
        found = evidence.require(source, version)
        champion, known = models.role(tracked, "champion"), models.registered(tracked, found.infrastructure.subject)
        if known and known == champion:
            follow_roles(STATE, tracked, config.serving.servers)
            return Transferred(known, models.roles(tracked), "it is the champion already")
        quality = judge(config, tracked, found.scores, champion)
        quality.require()
        number = known or copy(source, version, tracked, found)
        promotion.nominate(tracked, number, f"from {origin} version {version}")
        blessing = try_copy(config, tracked, number, found, champion)
        evidence.keep(tracked, number, Evidence(found.scores, quality, blessing))
        if config.promotion.approval == "required":
            ask_for_approval(tracked, number, quality, blessing)
        else:
            reason = f"from {origin} version {version}: {quality.sentence}"
            promotion.promote(tracked, number, quality, blessing, reason)
            follow_roles(STATE, tracked, config.serving.servers)
        return Transferred(number, models.roles(tracked), quality.sentence)


def judge(config: Config, tracked: Tracking, scores: Scores, champion: str | None) -> Verdict:
    """Returns the quality verdict against the champion of this environment, by the scores that were recorded of both.

    A champion that was scored on other data answers those in this workspace. Raises `UsageError` if they are not the
    ones that the version was scored on.
    """
    if champion is None:
        return compare(scores, None, config.promotion, scores.tasks)
    recorded = recorded_scores(tracked, champion)
    stale = recorded is None or bool(unlike(scores, recorded))
    here = DATA.is_dir() and Manifest.read(DATA).digest == scores.dataset_digest
    if (stale or any(each.where for each in config.promotion.slices.values())) and not here:
        what = f"champion {champion} has no scores on the data set {scores.dataset_digest[:12]}"
        raise UsageError(
            what if stale else "promotion.slices ask for columns of the evaluation sets",
            f"Bring the data set that the version was made from to this workspace's {DATA}: commit and hash are in its "
            "tags `git_commit` and `data`; `dvc pull data` fetches it.",
        )
    against = recorded if recorded and not stale else score_version(config, tracked, champion)
    return compare(scores, against, config.promotion, scores.tasks, sliced_rows(config))


def recorded_scores(tracked: Tracking, champion: str) -> Scores | None:
    """Returns the scores that were recorded of the champion; None if there are none, or an older scorer's."""
    try:
        found = evidence.find(tracked, champion)
    except UsageError:
        return None
    return found.scores if found else None


def copy(source: Tracking, version: str, to: Tracking, found: Evidence) -> str:
    """Registers the same bytes in the other environment, with lineage, files and description; returns their number.

    The copy is the environment's own: what is pruned where it came from is kept here.
    """
    tags, origin = models.facts(source, version), f"{source.environment} version {version}"
    with tempfile.TemporaryDirectory(dir=to.root / STATE) as folder:
        bundle = models.download(source, version, Path(folder, "bundle"))
        require_same(bundle, found)
        kept = {name: tags[name] for name in TRAVEL if name in tags} | {"reason": f"from {origin}"}
        round_ = tracking.copy_round(source, models.round_of(source, version), to, kept | {"from": origin})
        succeeded = False
        try:
            number = models.register(round_, bundle, found.scores, kept | {"from": origin})
            round_.tag({"version": number})
            models.copy_description(source, version, to, number)
            succeeded = True
        finally:
            tracking.end_round(round_, succeeded=succeeded)
    return number


def require_same(bundle: Path, found: Evidence) -> None:
    """Raises `EmbedlineError` unless the bytes are those that were scored and that passed: fingerprints are computed
    from the files and compared with those in the evidence."""
    require_scored(bundle, found.scores.model.fingerprint)
    if served_fingerprint(bundle) != found.infrastructure.subject:
        raise EmbedlineError(
            f"{bundle.name}: another bundle than the one that passed the gates",
            "Restore MLflow's artifact store from a backup, or name another version.",
        )


def try_copy(config: Config, tracked: Tracking, version: str, found: Evidence, champion: str | None) -> Verdict:
    """Returns the infrastructure verdict on what this environment's registry holds, measured beside its champion."""
    copied = models.fetched(tracked, version)
    require_same(copied, found)
    checks = measured_beside(config, tracked, copied, champion)
    against = served_as(tracked, champion)
    return infrastructure(served_fingerprint(copied), checks | found.carried, config.promotion, against)
