"""Deploy: the champion loaded anew on every server, or a version on trial, as `embedline deploy` does it."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger

from components import config as configuration
from components.export.config import Serving
from components.workspace import STATE
from serving.releases import deploy as releases
from serving.releases.deploy import Release


@flow(name="deploy", description="Loads the champion anew, or puts a version on trial (canary or shadow).")
def deploy(
    version: int | None = None,
    canary: float | None = None,
    shadow: float | None = None,
    parameters: Path = Path(configuration.PARAMETERS),
) -> Release:
    """Returns the routes after it; no `version` is the champion. Raises as `serving.releases.deploy.release` does."""
    settings = configuration.read_section(parameters, Serving)
    done = releases.release(STATE, version, canary, shadow, settings.servers)
    get_run_logger().info("%s on %s", done.routes, ", ".join(done.servers))
    return done
