"""The stages: one file each, which binds the work of the components to the paths of a workspace.

`components/stages/NAME.py` holds `SECTIONS`, the sections of `params.yaml` that the stage reads and is given,
`run(config, run)`, `CHOOSES`, those sections whose settings choose modules that the stage runs, and `FINDS`, packages
whose modules it chooses from by what it reads. A stage adds its file, its name here, and its entry in `dvc.yaml`, which
says what it depends on and makes; the flow runs whatever is listed, in this order.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from components import config as configuration
from components.errors import UsageError
from components.quiet import configure

if TYPE_CHECKING:
    from components.config import Config

STAGES = ("validate", "negatives", "teacher", "embed_teacher", "distill", "export", "evaluate", "package")


def run_stage(name: str) -> None:
    """Runs one stage in the present folder and logs it to MLflow. Raises `UsageError` if there is no such stage."""
    configure()
    from components.lineage import data_hash
    from components.registry.tracking import log_stage

    if name not in STAGES:
        raise UsageError(f"{name}: no such stage", f"The stages are: {', '.join(STAGES)}.")
    config = configuration.read(Path(configuration.PARAMETERS))
    stage: Any = importlib.import_module(module_of(name))
    sections = {section: getattr(config, section) for section in sections_of(name)}
    with log_stage(name) as run:
        run.log_parameters({section: settings.model_dump() for section, settings in sections.items()})
        run.log_dataset(data_hash(Path()), name)
        stage.run(only(sections), run)


def module_of(name: str) -> str:
    """Returns the name of the module that holds a stage."""
    return f"{__name__}.{name}"


def sections_of(name: str) -> tuple[str, ...]:
    """Returns the sections of `params.yaml` that a stage reads."""
    sections: tuple[str, ...] = importlib.import_module(module_of(name)).SECTIONS
    return sections


def only(sections: dict[str, Any]) -> Config:
    """Returns a configuration of these sections alone: a stage that reads another one, which `dvc.yaml` does not know
    of, fails."""
    config: Any = SimpleNamespace(**sections)
    return config  # type: ignore[no-any-return]
