"""One gRPC call to Triton: rows in, vectors out, and the kinds of what went wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.client.triton import BAD_DIMENSION, DEAD_PROCESS, DIMENSION, INPUTS, POSITION, Row
from serving.gateway.refusal import Refusal
from serving.routes import Target
from serving.triton import HOST, state_path

NEWEST = 0
"""The version number that stands for the highest one that Triton has loaded."""
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
UNKNOWN_MODEL = "unknown model"
RETRY_SECONDS = 2


@dataclass(frozen=True)
class Vectors:
    """`values` is `(n, dimension)` float32, `version` the one that has answered."""

    values: np.ndarray
    version: int


@dataclass(frozen=True)
class Limits:
    """The most rows of a batch, how many batches a model works on at the same time, and whether it has an input for
    the length of vectors: a version that was packaged before there was one has a parameter."""

    batch: int
    instances: int
    takes_dimension: bool = True


class Inference:
    """Calls of one Triton; `address` returns its `host:port` and is asked again when it cannot be reached."""

    def __init__(self, address: Callable[[], str]) -> None:
        self.address = address
        self.connected: str | None = None
        self.channels: list[grpc.aio.Channel] = []
        self.stub: Any = None
        self.known: dict[Target, Limits] = {}

    async def infer(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, seconds: float
    ) -> Vectors:
        """Returns one vector a row; of a row that the model can make nothing of, it may have no numbers.

        Raises `Refusal`: 400 for what the model does not take, 404 for a version that is not there, 503 and 504 for a
        server that cannot answer.
        """
        request = service_pb2.ModelInferRequest(
            model_name=target.model, model_version=version_text(target), id=request_id
        )
        for name, column in zip(INPUTS, zip(*rows, strict=True), strict=True):
            request.inputs.add(name=name, datatype="BYTES", shape=[len(rows), 1])
            request.raw_input_contents.append(b"".join(as_raw(value) for value in column))
        request.outputs.add(name="EMBEDDING")
        if dimension is not None:
            if (await self.limits(target, seconds)).takes_dimension:
                request.inputs.add(name=DIMENSION, datatype="INT32", shape=[len(rows), 1])
                request.raw_input_contents.append(np.full(len(rows), dimension, "<i4").tobytes())
            else:
                request.parameters["dimension"].int64_param = dimension
        answer = await self.call("ModelInfer", request, seconds)
        values = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(tuple(answer.outputs[0].shape))
        if values.shape[0] != len(rows):
            raise Refusal(503, f"the model has answered {len(values)} vectors for {len(rows)} items", code="bad_answer")
        return Vectors(values, int(answer.model_version))

    async def limits(self, target: Target, seconds: float) -> Limits:
        """Returns how much a model works on at once, by its configuration, asked for once. Raises `Refusal` as `infer`
        does."""
        if target not in self.known:
            request = service_pb2.ModelConfigRequest(name=target.model, version=version_text(target))
            config = (await self.call("ModelConfig", request, seconds)).config
            instances = sum(group.count * max(1, len(group.gpus)) for group in config.instance_group)
            takes_dimension = any(each.name == DIMENSION for each in config.input)
            self.known[target] = Limits(max(1, config.max_batch_size), max(1, instances), takes_dimension)
        return self.known[target]

    async def call(self, method: str, request: Any, seconds: float) -> Any:
        """Returns Triton's answer to a call of its gRPC service. Raises `Refusal`."""
        if self.stub is None:
            self._connect()
        try:
            return await getattr(self.stub, method)(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            self.known.clear()  # another model may have taken the place
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                self._connect()
            raise explained(error) from error

    def _connect(self) -> None:
        """Opens a channel if the address is another one than before; gRPC itself comes back to the same one."""
        address = self.address()
        if address != self.connected:
            self.channels.append(grpc.aio.insecure_channel(address, options=OPTIONS))
            self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channels[-1])
            self.connected = address

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


def as_raw(value: bytes) -> bytes:
    """Returns how Triton writes one element of a BYTES tensor: its length in four bytes, then itself."""
    return struct.pack("<I", len(value)) + value


def version_text(target: Target) -> str:
    return "" if target.version == NEWEST else str(target.version)


def explained(error: grpc.aio.AioRpcError) -> Refusal:
    """Returns what a client reads; messages of a broken server stay in its log."""
    code, message = error.code(), error.details() or ""
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        if message.startswith(BAD_DIMENSION):
            return Refusal(400, message, param="dimensions", code="undeclared_dimension")
        found = POSITION.match(message)
        return Refusal(400, found[2] if found else message, code="bad_item")
    if UNKNOWN_MODEL in message:
        return Refusal(404, "the model has no such version here", param="model", code="model_not_found")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Refusal(504, "the model has not answered in time", code="timeout", retry_after=RETRY_SECONDS)
    if DEAD_PROCESS in message:
        return Refusal(503, "the process of the model has ended", code="model_down", retry_after=RETRY_SECONDS)
    return Refusal(503, "the model server cannot answer", code="model_down", retry_after=RETRY_SECONDS)


def address_in(home: Path) -> str:
    """Returns the gRPC address of the Triton that runs in `home`. Raises `Refusal` 503 if none does."""
    try:
        state = json.loads(state_path(home).read_text(encoding="utf-8"))
        return f"{HOST}:{int(state['grpc_port'])}"
    except (OSError, ValueError, KeyError) as error:
        raise Refusal(503, "no model server runs here", code="model_down", retry_after=RETRY_SECONDS) from error
