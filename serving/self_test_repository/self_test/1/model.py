"""Sends back what it was sent, as NumPy saw it, so that the launcher can tell whether the server reads values right."""

from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [pb_utils.InferenceResponse([echo(tensor) for tensor in request.inputs()]) for request in requests]


def echo(tensor: Any) -> Any:
    return pb_utils.Tensor(f"{tensor.name()}_SEEN", tensor.as_numpy().copy())
