"""Runs an engine on a GPU, in the place of a session of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.errors import UsageError
from components.export.tensorrt.engine import Engine
from components.export.tensorrt.gpu import missing_gpu
from components.export.tensorrt.reading import load


class EngineSession:
    """An engine with `run(outputs, inputs)`. Raises `UsageError`, which names it, if something to run it is missing."""

    def __init__(self, path: Path) -> None:
        missing = missing_gpu()
        if missing is not None:
            raise UsageError(f"{path} cannot run here: {missing}", "Run it where an NVIDIA GPU and its driver are.")
        self.engine = load(path, Engine.read(path).builder)
        assert self.engine is not None, "where there is a GPU, what is not loaded is refused"
        self.context = self.engine.create_execution_context()

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs of a batch. Raises `UsageError` if a shape is outside the profile."""
        import torch

        stream = torch.cuda.Stream()
        on_gpu = {name: torch.from_numpy(np.ascontiguousarray(value)).cuda() for name, value in inputs.items()}
        for name, value in on_gpu.items():
            if not self.context.set_input_shape(name, tuple(value.shape)):
                raise UsageError(f"{name} {tuple(value.shape)} is outside the engine's profile")
            self.context.set_tensor_address(name, value.data_ptr())
        found: dict[str, Any] = {}
        for name in outputs:
            found[name] = torch.empty(tuple(self.context.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
            self.context.set_tensor_address(name, found[name].data_ptr())
        torch.cuda.synchronize()
        self.context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return [found[name].cpu().numpy() for name in outputs]
