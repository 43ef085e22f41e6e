"""What items look like to the graphs: the inputs that a model's own `runtime.py` makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.export.tensorrt.graph import Profile

Inputs = dict[str, np.ndarray]


@dataclass
class Recorder:
    """A session of ONNX Runtime, and all that went into it."""

    session: Any
    inputs: list[Inputs] = field(default_factory=list)

    def run(self, outputs: Any, inputs: Inputs, *options: Any) -> Any:
        self.inputs.append(dict(inputs))
        return self.session.run(outputs, inputs, *options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def replace_sessions(embedder: OnnxEmbedder, by: Mapping[frozenset[str], Any]) -> None:
    """Gives the embedder's runtime other sessions, each known by the names of its inputs and outputs."""
    for attribute, session in sessions(embedder).items():
        setattr(embedder.runtime, attribute, by[names(session)])


def sessions(embedder: OnnxEmbedder) -> dict[str, onnxruntime.InferenceSession]:
    """Returns the sessions of an embedder's runtime by the attribute that holds them."""
    held = vars(embedder.runtime)
    return {name: value for name, value in held.items() if isinstance(value, onnxruntime.InferenceSession)}


def names(session: onnxruntime.InferenceSession) -> frozenset[str]:
    return frozenset(value.name for value in (*session.get_inputs(), *session.get_outputs()))


def record(directory: Path, items: Sequence[Item]) -> dict[frozenset[str], list[Inputs]]:
    """Returns the batches of inputs that each graph of an exported directory gets when it encodes the items."""
    embedder = OnnxEmbedder(directory)
    recorders = {names(session): Recorder(session) for session in sessions(embedder).values()}
    replace_sessions(embedder, recorders)
    embedder.encode(items)
    return {key: recorder.inputs for key, recorder in recorders.items()}


def outside(batches: Sequence[Inputs], profiles: Mapping[str, Profile]) -> str | None:
    """Returns which input is the first that a profile does not hold, each item alone; None if they hold all."""
    for batch in batches:
        for name, value in batch.items():
            shape, profile = value.shape, profiles[name]
            if not profile.holds((profile.opt[0], *shape[1:])):
                return f"{name} {shape} is outside {profile.min} to {profile.max}"
    return None
