"""What a round would do: whether it would build the data set, which stages it would run and why, how long they took
before, and what the gates would compare. Nothing runs and nothing changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import lineage
from components.config import Config
from components.corpus import Manifest, is_current
from components.errors import EmbedlineError
from components.lineage import Planned, Reason
from components.registry import models, tracking
from components.stages import STAGES
from components.stages.inputs import undeclared


@dataclass(frozen=True)
class Plan:
    """`ingest` holds why the data set would be built (nothing: it is current), `unreviewed` changes of it that nobody
    has added, which end a round; `seconds` is what each stage took when it last ran here."""

    ingest: tuple[Reason, ...]
    unreviewed: Mapping[str, Sequence[str]]
    stages: tuple[Planned, ...]
    seconds: Mapping[str, float]
    gates: Mapping[str, Any]


def plan(root: Path, config: Config) -> Plan:
    """Returns what `embedline run` would do in a workspace with this configuration."""
    data = why_ingest(root, config)
    more = {
        stage: [Reason(path, "newly chosen") for path in paths] for stage, paths in undeclared(root, config).items()
    }
    more |= {"data": list(data)} if data else {}
    tracked = tracking.find(root)
    prepared = not data and (root / "data.dvc").is_file()
    return Plan(
        data,
        lineage.unreviewed_changes(root) if prepared else {},
        tuple(lineage.plan(root, STAGES, more)),
        tracking.stage_seconds(tracked) if tracked else {},
        gates(config, tracked),
    )


def why_ingest(root: Path, config: Config) -> tuple[Reason, ...]:
    """Returns why the data set would be built anew."""
    if is_current(config.corpus, root / "data"):
        return ()
    try:
        manifest = Manifest.read(root / "data")
    except EmbedlineError:
        return (Reason("data", "was never built"),)
    changed = tuple(lineage.changed_values("corpus", manifest.corpus, config.corpus.model_dump(mode="json")))
    return changed or (Reason("data", "is made of other inputs"),)


def gates(config: Config, tracked: tracking.Tracking | None) -> dict[str, Any]:
    """Returns what a challenger would be compared with, and by which limits."""
    champion = models.role(tracked, "champion") if tracked else None
    score = models.facts(tracked, champion).get("overall") if tracked and champion else None
    return {"champion": champion, "overall": float(score) if score else None, **config.promotion.model_dump()}
