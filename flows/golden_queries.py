"""Golden queries: asked of the running server on a schedule, with known answers and stored vectors."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from prefect import flow, get_run_logger

from components import config as configuration
from components.embedder import OnnxEmbedder
from components.errors import EmbedlineError
from components.monitoring.config import Monitoring
from components.registry import models, tracking
from components.workspace import DATA, STATE
from monitoring import golden
from monitoring.alert import alert
from monitoring.golden import GoldenReport
from serving import events, repository
from serving.client import TritonEmbedder
from serving.roles import served_versions
from serving.triton import TritonServer

GOLDEN = STATE / "golden"
HISTORY = STATE / "monitoring" / golden.HISTORY


@flow(name="golden-queries", description="Asks the served champion questions with known answers.")
def golden_queries(parameters: Path = Path(configuration.PARAMETERS)) -> GoldenReport | None:
    """Returns how the champion answered; None where no server runs, which is no failure of the model.

    The known vectors are those of the version's own runtime and graphs, computed once in this process.
    """
    if (server := TritonServer.find(STATE)) is None:
        get_run_logger().warning("no server runs here: `embedline serve`")
        return None
    settings = configuration.read_section(parameters, Monitoring)
    version = served_versions(models.roles(tracking.prepare(Path())))[0]
    folder = GOLDEN / str(version)
    if not folder.is_dir():
        golden.make(OnnxEmbedder(server.repository / repository.MODEL / str(version)), DATA, folder)
    report = golden.ask(TritonEmbedder(server.url, version=version), golden.read(folder), str(version))
    golden.append(HISTORY, report)
    get_run_logger().info(
        "version %s: hit@1 %.3f of %.3f, least cosine %.5f, %.1f ms a query",
        version, report.hit_at_1, report.known_hit_at_1, report.least_cosine, report.median_ms,
    )  # fmt: skip
    if report.problem:
        events.record(STATE, "golden_failed", **asdict(report))
        alert(settings, f"Embedline: golden queries, version {version}", report.problem)
        raise EmbedlineError(
            f"version {version} answers golden queries wrongly: {report.problem}",
            "Go back with `embedline rollback`, or start the server again: `embedline serve`.",
        )
    return report
