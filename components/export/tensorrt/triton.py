"""The configuration with which Triton serves an engine (platform `tensorrt_plan`)."""

from __future__ import annotations

from components.export.tensorrt.engine import Engine
from components.export.tensorrt.graph import Tensor

CONFIG, VERSION = "config.pbtxt", "1"
TYPES = {"float": "TYPE_FP32", "int64": "TYPE_INT64", "int32": "TYPE_INT32", "bool": "TYPE_BOOL"}
TEMPLATE = """name: "{name}"
platform: "tensorrt_plan"
default_model_filename: "{file}"
max_batch_size: {batch}
dynamic_batching {{ }}
input [
{inputs}
]
output [
{outputs}
]
instance_group [ {{ kind: KIND_GPU count: 1 }} ]
"""


def triton_config(name: str, engine: Engine) -> str:
    """Returns the text of `config.pbtxt`. Triton's backend is of TensorRT itself: it loads no engine of another."""
    batch = min(profile.max[0] for profile in engine.profiles.values())
    inputs, outputs = (",\n".join(map(entry, tensors)) for tensors in (engine.inputs, engine.outputs))
    return TEMPLATE.format(name=name, file=engine.file, batch=batch, inputs=inputs, outputs=outputs)


def entry(tensor: Tensor) -> str:
    dimensions = ", ".join(map(str, tensor.shape[1:]))
    return f'  {{ name: "{tensor.name}" data_type: {TYPES[tensor.dtype]} dims: [ {dimensions} ] }}'
