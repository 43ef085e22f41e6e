"""What builds engines: one file a builder, which says whether it can build here.

`NAME.py` holds `missing()`, what it lacks here (None: nothing), `api()`, its Python module, `target(targets)`, the
architectures as engine files name them, `configure(api, config, targets, cache)`, which aims a builder configuration
at them, and `finish(config, cache)`, which keeps what the build has learnt for the next one.
"""

from __future__ import annotations

from typing import Any

from components.errors import UsageError
from components.found_by_name import FoundByName

BUILDERS = FoundByName("components.export.tensorrt.builders", "builder")


def builder_of(name: str) -> Any:
    """Returns the module of a builder. Raises `UsageError`, which says what is missing, if it cannot build here."""
    builder = BUILDERS.module(name)
    missing = builder.missing()
    if missing is not None:
        raise UsageError(f"the builder {name} cannot build here: {missing}", "Name another one in export.tensorrt.")
    return builder
