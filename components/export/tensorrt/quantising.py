"""Products in symmetric int8, as TensorRT takes them: weights and activations, marked by pairs of (de)quantisations.

What the processor's variant does is refused by TensorRT: unsigned activations, and scales that are found at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from components.export.quantisation import Calibration, be_calm
from components.export.tensorrt.casting import PRODUCTS, members
from components.export.tensorrt.recording import Inputs

OPTIONS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}


def quantise(source: Path, target: Path, calibration: Sequence[Inputs], families: Iterable[str]) -> None:
    """Writes the graph with its products in int8, all but those of `families`; `calibration` spans their ranges."""
    be_calm()
    with TemporaryDirectory() as folder:
        prepared = Path(folder, source.name)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        kept = members(graph, families)
        quantize_static(
            prepared,
            target,
            Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(PRODUCTS),
            nodes_to_exclude=[node.name for node in graph.node if node.output[0] in kept],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=OPTIONS,
        )
