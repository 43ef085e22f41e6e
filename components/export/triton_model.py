"""The `model.py` of every served version: text and encoded images in, embeddings out, through `runtime.py` beside it.

Triton's python backend runs this file inside the server's own environment, so it imports nothing of this project. All
that it needs lies in its version folder; how many threads an encoder uses, and what computes its graphs, are the model
parameters `threads` and `provider`. Where the parameter `graphs` is `triton`, models of their own compute the graphs,
and this one asks them (see `layouts.py`), with at most `batch_size` texts or images at a time.

A request with the input `DIMENSION`, one of those that the model was trained to be cut to, is answered with the first
numbers of each vector, of length 1 again (Kusupati et al., Matryoshka Representation Learning, 2022). The request
parameter `dimension` says the same, but Triton's response cache does not see it.
"""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import runtime  # type: ignore[import-not-found]
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from runtime import Runtime, UnreadableImage, load_image

Row = tuple[str | None, bytes | None, str | None]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads spin while they wait: a batch took twice as long


class TritonPythonModel:
    """One served version of the embedder."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        given = {name: value["string_value"] for name, value in parameters.items()}
        # a runtime that has only one provider takes none
        named: dict[str, Any] = {name: given[name] for name in ("provider",) if given.get(name, "auto") != "auto"}
        threads = given.get("threads")
        if given.get("graphs") == "triton":
            version = int(args["model_version"])
            named |= {name: int(given[name]) for name in ("batch_size",) if name in given}
            runtime.session = lambda graph, *_: GraphModel(f"{graph.stem}_tower", version)
            runtime.provider_of = lambda _: "Triton's backends"
        self.runtime = Runtime(Path(__file__).parent, int(threads) if threads else None, **named)
        provider = getattr(self.runtime, "provider", "cpu")
        pb_utils.Logger.log_info(f"version {args['model_version']} is computed by {provider}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Returns one response a request. All rows are encoded together; a request that cannot be encoded is found
        by halving, so that it fails alone."""
        try:
            rows_of = [read_rows(request) for request in requests]
            dimensions = [self.dimension_of(request) for request in requests]
            texts, images, instructions = zip(*chain.from_iterable(rows_of), strict=True)
            vectors = self.runtime.encode(texts, images, instructions)
        except ValueError as error:
            if len(requests) == 1:
                return [refusal(requests[0], error)]
            middle = len(requests) // 2
            return self.execute(requests[:middle]) + self.execute(requests[middle:])
        ends = np.cumsum([len(rows) for rows in rows_of])[:-1]
        parts = map(cut, np.split(vectors, ends), dimensions)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", part)]) for part in parts]

    def dimension_of(self, request: Any) -> int:
        """Returns how many numbers a vector of the answer has."""
        description = self.runtime.description
        tensor = pb_utils.get_input_tensor_by_name(request, "DIMENSION")
        if tensor is None:
            asked = {json.loads(request.parameters() or "{}").get("dimension", description.dimension)}
        else:
            asked = set(tensor.as_numpy().reshape(-1).tolist())
        if len(asked) != 1:
            raise ValueError(f"dimension is one for all items of a request, not each of {sorted(asked)}")
        (wanted,) = asked
        known = {description.dimension, *description.matryoshka_dimensions}
        if wanted not in known:
            raise ValueError(f"dimension {wanted!r} is none of {', '.join(map(str, sorted(known, reverse=True)))}")
        return int(wanted)


class GraphModel:
    """A graph that a model of its own computes, in place of a session of ONNX Runtime."""

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs of these names. Raises `RuntimeError` if the model does not answer: no item's fault."""
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            model_version=self.version,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        answer = request.exec()
        if answer.has_error():
            raise RuntimeError(f"{self.model}: {answer.error().message()}")
        return [pb_utils.get_output_tensor_by_name(answer, name).as_numpy() for name in outputs]


def cut(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Returns `(n, dimension)`: the first numbers of each vector, L2-normalised again where some are left out."""
    if dimension == vectors.shape[1]:
        return vectors
    first = vectors[:, :dimension]
    shortened: np.ndarray = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    return shortened


def read_rows(request: Any) -> list[Row]:
    """Returns the rows of one request; an input that was not sent, or an empty string, is None."""
    tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in ("TEXT", "IMAGE", "INSTRUCTION")}
    columns = {name: tensor.as_numpy().reshape(-1) for name, tensor in tensors.items() if tensor is not None}
    if not columns:
        raise ValueError("the request has no input; send TEXT, IMAGE or both")
    nothing = [b""] * len(next(iter(columns.values())))
    rows = zip(*(columns.get(name, nothing) for name in tensors), strict=True)
    return [(text.decode() or None, image or None, instruction.decode() or None) for text, image, instruction in rows]


def refusal(request: Any, error: ValueError) -> Any:
    """Returns the response that says why the request cannot be encoded, and which of its items is to blame."""
    problem = "TEXT and INSTRUCTION must be UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    if isinstance(error, UnreadableImage):
        for position, (_, image, _) in enumerate(read_rows(request)):
            try:
                load_image(image) if image else None
            except UnreadableImage:
                problem = f"item {position}: {problem}"
                break
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG))
