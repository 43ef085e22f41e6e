"""Prefect flows: they order the work and hold none of it."""

import components  # noqa: F401  (first: it switches telemetry off)
