"""Which versions stay whole, and why: those that answer, those that may be gone back to, those that are being made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from mlflow.entities import LoggedModel

from components.registry import history, models
from components.registry.ledger import Entry
from components.registry.tracking import Tracking, runs

MODELS_A_PAGE = 100


@dataclass(frozen=True)
class Stored:
    """What the artifact store has of a bundle: at `location`, of a version, or of none where a registration was killed
    (`model_id` names what MLflow logged)."""

    version: str | None
    model_id: str | None
    location: str
    bytes: int


def kept(tracking: Tracking, entries: Sequence[Entry], loaded: Collection[int], champions: int) -> dict[str, str]:
    """Returns why each version that stays has to, by its number.

    `entries` are the verified ledger, `loaded` the versions that servers hold or routes name, `champions` is how many
    former champions stay, the latest ones.
    """
    former = dict.fromkeys(reign.version for reign in reversed(history.reigns(entries)))
    reasons = {version: "was champion" for version in list(former)[: champions + 1]}
    reasons |= {str(version): "is loaded" for version in loaded}
    reasons |= {version: f"is {alias}" for alias, version in models.aliases(tracking).items()}
    if entries and entries[-1].state == "pending":
        reasons[entries[-1].version] = f"its {entries[-1].action} was not finished"
    reasons |= {version: f"is {name}" for version, name in _copied(tracking)}
    known = models.versions(tracking)
    for run in runs(tracking, "attributes.status = 'RUNNING'"):
        named = [number for number, tags in known.items() if tags["round"] == run.info.run_id]
        reasons |= {version: "a round makes it" for version in [*named, run.data.tags.get("version", "")]}
    return {version: reason for version, reason in reasons.items() if version in known}


def not_kept(tracking: Tracking, kept: Collection[str]) -> list[Stored]:
    """Returns the bundles in the artifact store that belong to no version in `kept`, nor to a round that runs."""
    locations = {number: models.location(tracking, number) for number in models.versions(tracking)}
    running = {run.info.run_id for run in runs(tracking, "attributes.status = 'RUNNING'")}
    found: list[tuple[str | None, str | None, str]] = [
        (number, None, place) for number, place in locations.items() if number not in kept
    ]
    found += [
        (None, logged.model_id, logged.artifact_location)
        for logged in _logged(tracking)
        if logged.artifact_location not in locations.values() and logged.source_run_id not in running
    ]
    sized = [
        Stored(version, model_id, place, models.stored_bytes(tracking, place)) for version, model_id, place in found
    ]
    return [each for each in sized if each.bytes or each.model_id]


def remove(tracking: Tracking, stored: Stored) -> None:
    """Removes the bytes; a version keeps its record, which says that it was pruned (`models.mark_pruned`)."""
    models.remove_stored(tracking, stored.location)
    if stored.model_id:
        tracking.client.delete_logged_model(stored.model_id)


def _copied(tracking: Tracking) -> Iterator[tuple[str, str]]:
    """Yields the versions that another registered model shares the bundle with, and the name there."""
    for version in tracking.client.search_model_versions(max_results=models.MOST_VERSIONS):
        if version.name != tracking.model and str(version.source).startswith(f"{models.REFERENCE}{tracking.model}/"):
            yield str(version.source).rpartition("/")[2], f"version {version.version} of {version.name}"


def _logged(tracking: Tracking) -> Iterator[LoggedModel]:
    token = None
    while True:
        page = tracking.client.search_logged_models(
            [tracking.experiment_id], max_results=MODELS_A_PAGE, page_token=token
        )
        yield from page
        if not (token := page.token):
            return
