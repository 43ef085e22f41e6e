"""The switches of all tools: telemetry off, the model hub too unless `HF_HUB_OFFLINE=0` asks for it, waiting without
spinning.

The tools read these variables when they are imported, so whatever starts a process of ours calls `configure` before it
imports any of them. Importing this module, or any other of the project, changes nothing.
"""

import os
import warnings

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
OFFLINE_BY_DEFAULT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
CALM = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait hold up what works beside them
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # on a loaded machine its default of 20 is too short
}


def configure() -> None:
    """Sets the switches in the environment of this process and of those that it starts, and ignores `FutureWarning`.

    Telemetry is off whatever the environment says; what it says of the hub and of the rest is kept.
    """
    os.environ.update(TELEMETRY_OFF)
    hub = os.environ.get("HF_HUB_OFFLINE")
    for name, value in OFFLINE_BY_DEFAULT.items():
        os.environ.setdefault(name, hub if hub is not None else value)
    for name, value in CALM.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
