import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from components.quiet import OFFLINE_BY_DEFAULT, TELEMETRY_OFF

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py"))
WATCH = """
import importlib, json, os, sys

TOOLS = {"prefect", "mlflow", "great_expectations", "dvc", "transformers", "datasets", "huggingface_hub"}
found = {}

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in TOOLS and name not in found:
            found[name] = dict(os.environ)

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
print(json.dumps({"before": found, "after": dict(os.environ)}))
"""


@cache
def imported(module: str, **environment: str) -> dict[str, dict[str, str]]:
    """Returns the environment that each tool found when `module` was imported, and that which is left after it."""
    clean = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF | OFFLINE_BY_DEFAULT}
    done = subprocess.run(
        [sys.executable, "-c", WATCH, module],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=clean | environment,
        timeout=120,
    )
    answer = json.loads(done.stdout)
    return {**answer["before"], "after": answer["after"]}


def switches(environment: dict[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in TELEMETRY_OFF | OFFLINE_BY_DEFAULT if name in environment}


@pytest.mark.parametrize("module", [*PACKAGES, "components.embedder.dual_encoder", "flows.ingest"])
def test_every_tool_finds_its_switches_set(module: str) -> None:
    found = imported(module)
    assert all(switches(environment) == TELEMETRY_OFF | OFFLINE_BY_DEFAULT for environment in found.values())


def test_without_them_the_tools_would_find_none() -> None:
    assert all(switches(environment) == {} for environment in imported("huggingface_hub").values())


def test_every_package_of_the_project_is_watched() -> None:
    assert {"components", "serving", "monitoring", "flows"} <= set(PACKAGES)
    assert "transformers" in imported("components.embedder.dual_encoder") and "prefect" in imported("flows.ingest")


def test_the_hub_can_be_asked_for_and_telemetry_cannot() -> None:
    after = imported("components", HF_HUB_OFFLINE="0", MLFLOW_DISABLE_TELEMETRY="false", DO_NOT_TRACK="0")["after"]
    assert switches(after) == TELEMETRY_OFF | dict.fromkeys(OFFLINE_BY_DEFAULT, "0")


def test_a_single_hub_switch_is_left_as_it_is() -> None:
    after = imported("components", HF_DATASETS_OFFLINE="0")["after"]
    assert after["HF_DATASETS_OFFLINE"] == "0" and after["HF_HUB_OFFLINE"] == "1"
