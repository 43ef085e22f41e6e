"""The code that each stage depends on, as `dvc.yaml` must declare it.

It is the import closure of the stage's module, of the modules that its sections of `params.yaml` choose by name
(losses, towers, ...), and of those that it chooses from by what it reads (exporters). What the sections choose changes
with the configuration: where `dvc.yaml` lacks one, `declare` adds it, so that an edit of a loss that is used repeats
the training, and a new loss that nobody uses repeats nothing.
"""

from __future__ import annotations

import importlib
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from components.config import Config
from components.errors import UsageError
from components.files import write_text
from components.source import closure, modules_of
from components.stages import STAGES, module_of

PIPELINE = "dvc.yaml"


def needed(name: str, config: Config) -> list[str]:
    """Returns the paths of all files of the project that a stage depends on, sorted."""
    stage = importlib.import_module(module_of(name))
    chosen = {module for section in getattr(stage, "CHOOSES", ()) for module in getattr(config, section).modules()}
    chosen |= {module for package in getattr(stage, "FINDS", ()) for module in modules_of(package)}
    return closure(module_of(name), *sorted(chosen))


def declared(root: Path) -> dict[str, list[str]]:
    """Returns the dependencies of each stage in `dvc.yaml`. Raises `UsageError` if it lacks a stage."""
    stages = YAML(typ="safe").load((root / PIPELINE).read_text(encoding="utf-8"))["stages"]
    if missing := [name for name in STAGES if name not in stages]:
        raise UsageError(f"{PIPELINE}: has no stage {', '.join(missing)}", f"Restore it: git checkout {PIPELINE}")
    return {name: list(stages[name]["deps"]) for name in STAGES}


def undeclared(root: Path, config: Config) -> dict[str, list[str]]:
    """Returns the files that a stage depends on and `dvc.yaml` does not declare, by stage; empty where all are."""
    found = {
        name: [path for path in needed(name, config) if not any(covers(dependency, path) for dependency in deps)]
        for name, deps in declared(root).items()
    }
    return {name: paths for name, paths in found.items() if paths}


def covers(dependency: str, path: str) -> bool:
    """Returns whether a dependency is the file, or a folder above it."""
    return path == dependency or path.startswith(f"{dependency}/")


def declare(root: Path, config: Config) -> dict[str, list[str]]:
    """Adds to `dvc.yaml` what `undeclared` finds, comments kept, and returns it."""
    missing = undeclared(root, config)
    if missing:
        yaml = YAML()
        yaml.width = 4096
        yaml.indent(mapping=2, sequence=4, offset=2)
        content = yaml.load((root / PIPELINE).read_text(encoding="utf-8"))
        for name, paths in missing.items():
            content["stages"][name]["deps"].extend(paths)
        stream = StringIO()
        yaml.dump(content, stream)
        write_text(root / PIPELINE, stream.getvalue())
    return missing
