"""The work of the production line, importable without Prefect."""

import components.quiet  # noqa: F401  (first: it sets the switches that other tools read at import)
