"""The image of the gateway holds what the gateway imports, and no more than its list says."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serving" / "deploy"


def closure(requirements: list[str]) -> set[str]:
    """Returns the packages of these requirements, and what they need themselves."""
    waiting, seen = [Requirement(line) for line in requirements], set[tuple[str, ...]]()
    while waiting:
        one = waiting.pop()
        key = (normal(one.name), *sorted(one.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = importlib.metadata.requires(one.name) or []
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        for need in map(Requirement, needs):
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in (*one.extras, "")):
                waiting.append(need)
    return {name for name, *_ in seen}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


ONLY = """
import importlib, sys
from importlib.abc import MetaPathFinder

foreign = set(sys.argv[1].split(","))

class Only(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Only())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def imported_with(requirements: list[str], *modules: str) -> subprocess.CompletedProcess[str]:
    """Imports modules where nothing is installed but these requirements and what they need."""
    allowed = {*closure(requirements), "embedline"}
    foreign = {
        top
        for top, owners in importlib.metadata.packages_distributions().items()
        if not {normal(owner) for owner in owners} & allowed
    }
    command = [sys.executable, "-c", ONLY, ",".join(foreign), *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_image_of_the_gateway_holds_what_it_imports() -> None:
    requirements = [line for line in (DEPLOY / "gateway-requirements.txt").read_text().splitlines() if line[0] != "#"]
    modules = ("cli.main", "cli.gateway", "components.config", "serving.gateway.server")
    done = imported_with(requirements, *modules)
    assert done.returncode == 0, done.stderr[-2000:]
    without = [line for line in requirements if line != "uvicorn"]
    assert "is not in the image" in imported_with(without, *modules).stderr
    locked = {normal(line.partition("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert {normal(Requirement(line).name) for line in requirements} <= locked
