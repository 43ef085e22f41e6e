"""Whatever starts a process of ours sets the switches before any tool reads them; importing the project sets none."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from components.quiet import CALM, OFFLINE_BY_DEFAULT, TELEMETRY_OFF

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py"))
SWITCHES = TELEMETRY_OFF | OFFLINE_BY_DEFAULT | CALM
WATCH = """
import json, logging, os, sys, warnings

TOOLS = {"prefect", "mlflow", "great_expectations", "dvc", "transformers", "datasets", "huggingface_hub", "mteb"}
QUANTISER = "onnxruntime.quantization.matmul_nbits_quantizer"
PROCESSORS = "transformers.models.auto.video_processing_auto"
found = {}

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in TOOLS and name not in found:
            found[name] = dict(os.environ)

def state():
    loggers = {name: logging.getLogger(name).level for name in (None, "torch.onnx", QUANTISER)}
    known = getattr(sys.modules.get(PROCESSORS), "VIDEO_PROCESSOR_MAPPING", None)
    processors = [] if known is None else list(known._extra_content)
    return {
        "environment": dict(os.environ), "filters": [str(each) for each in warnings.filters],
        "loggers": list(loggers.values()), "processors": [str(each) for each in processors],
    }

sys.meta_path.insert(0, Watch())
"""
ENTRIES = {
    "the command line": (
        "import cli.main\ncli.main.app = lambda **_: __import__('flows.retrain')\ncli.main.main()",
        {"prefect", "mlflow"},
    ),
    "a stage": (
        "from components.errors import UsageError\nfrom components.stages import run_stage\n"
        "try: run_stage('fly')\nexcept UsageError: pass",
        {"mlflow"},
    ),
    **{
        f"benchmarks/{name}.py": (
            f"import runpy\nsys.path.insert(0, 'benchmarks')\nrunpy.run_path('benchmarks/{name}.py', run_name='x')",
            tools,
        )
        for name, tools in {"evaluation": {"mteb", "datasets"}, "training": {"datasets"}, "recipes": set()}.items()
    },
}  # fmt: skip


@cache
def run(code: str, **environment: str) -> dict[str, Any]:
    """Returns the environment that each tool found when the code imported it, and what the code leaves in `left`."""
    clean = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    done = subprocess.run(
        [sys.executable, "-c", f"{WATCH}\n{code}\nprint(json.dumps(dict(found, left=state())))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=300,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def configured(**environment: str) -> dict[str, str]:
    """Returns the environment after `configure` in that one."""
    left = run("from components.quiet import configure\nconfigure()", **environment)["left"]
    return dict(left["environment"])


def switches(environment: dict[str, str]) -> dict[str, str]:
    return {name: environment[name] for name in TELEMETRY_OFF | OFFLINE_BY_DEFAULT if name in environment}


@pytest.mark.parametrize(
    "entry", [pytest.param(name, marks=pytest.mark.slow) if "benchmarks" in name else name for name in ENTRIES]
)
def test_every_tool_finds_its_switches_set(entry: str) -> None:
    code, tools = ENTRIES[entry]
    found = run(code)
    del found["left"]
    assert found.keys() >= tools
    assert all(switches(environment) == TELEMETRY_OFF | OFFLINE_BY_DEFAULT for environment in found.values())


def test_without_them_the_tools_would_find_none() -> None:
    found = run("import huggingface_hub")
    assert switches(found["huggingface_hub"]) == {}


def before_and_after(theirs: str, *ours: str, then: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the state of a process that has imported what is theirs, and its state once it imported ours too."""
    found = run(f"import {theirs}\nfound['before'] = state()\nimport {', '.join(ours)}\n{then}")
    return found["before"], found["left"]


def test_importing_the_project_changes_nothing_in_a_process_of_somebody_else() -> None:
    assert {"cli", "components", "serving", "monitoring", "flows"} <= set(PACKAGES)
    ours = (*PACKAGES, "cli.main", "components.stages", "components.registry.dataset_source")
    before, after = before_and_after("mlflow.data.dataset_source", *ours)
    assert before == after
    configure = "from components.quiet import configure\nconfigure()"
    before, after = before_and_after("mlflow.data.dataset_source", *ours, then=configure)
    assert before["environment"] != after["environment"] and before["filters"] != after["filters"]


def test_what_calms_a_library_does_so_when_it_is_used() -> None:
    found = run(
        "import torch.onnx, transformers.models.auto.video_processing_auto\n"
        "import onnxruntime.quantization.matmul_nbits_quantizer\n"
        "found['before'] = state()\n"
        "import components.export.exporters.dual_encoder, components.export.quantisation\n"
        "from components.backends.without_torchvision import AutoVideoProcessor, PretrainedConfig, NoVideo\n"
        "found['imported'] = state()\n"
        "AutoVideoProcessor.register(PretrainedConfig, NoVideo, exist_ok=True)\n"
        "logging.getLogger(QUANTISER).setLevel(1)"
    )
    for what in ("loggers", "processors"):
        assert found["before"][what] == found["imported"][what], what
    for what in ("loggers", "processors"):
        assert found["imported"][what] != found["left"][what], "a change is seen"


def test_the_hub_can_be_asked_for_and_telemetry_cannot() -> None:
    after = configured(HF_HUB_OFFLINE="0", MLFLOW_DISABLE_TELEMETRY="false", DO_NOT_TRACK="0")
    assert switches(after) == TELEMETRY_OFF | dict.fromkeys(OFFLINE_BY_DEFAULT, "0")


def test_a_single_hub_switch_is_left_as_it_is() -> None:
    after = configured(HF_DATASETS_OFFLINE="0")
    assert after["HF_DATASETS_OFFLINE"] == "0" and after["HF_HUB_OFFLINE"] == "1"


def test_what_prefect_waits_for_its_server_is_longer_unless_the_environment_says_otherwise() -> None:
    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    assert configured()[name] == "120"
    assert configured(**{name: "5"})[name] == "5"
