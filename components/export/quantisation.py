"""Exported graphs with weights of 8 or 4 bits: a fraction of the size, and faster where the processor multiplies int8.

Every part is quantised so that an item's vector does not depend on its neighbours in the batch, which rules out the
scales that dynamic quantisation takes from a whole batch:

* convolutions, in weights and activations, with the ranges that calibration spans;
* matrix products, with a scale for each column of weights and each row of activations (`row_products.py`), or in
  blocks of weights alone (`MatMulNBits`);
* tables of word vectors, each row with its own scale, so that words with short vectors keep their direction.

The last projections stay fp32: they are small, and it is they that decide which neighbour is the nearest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from components.export.onnx_graphs import check, is_large, rewrite, save
from components.export.row_products import quantise_rows

BLOCK = 32
FP32_PRODUCTS = 1
"""What ONNX Runtime calls the accuracy level of a product with activations as they are."""
Feeds = Mapping[str, NDArray[np.float32]]


def quantise(source: Path, directory: Path, calibration: Mapping[str, Iterable[Feeds]]) -> None:
    """Writes the exported model in `source` with weights and activations of 8 bits.

    `calibration` holds inputs like those to come for graphs by their file's name. The convolutions of any other graph
    stay fp32, and those of one too large for a file, which their quantiser cannot read. Raises what the ONNX checker
    or ONNX Runtime raises if a graph is not valid.
    """
    be_calm()
    shutil.copytree(source, directory)
    for path in sorted(directory.glob("*.onnx")):
        if path.name in calibration and not is_large(onnx.load(path)):
            quantise_convolutions(source / path.name, path, calibration[path.name])
        model = onnx.load(path)
        del model.graph.value_info[:]  # the shapes of what is replaced
        quantise_rows(model.graph)
        quantise_tables(model.graph)
        save(model, path)
        check(path)


def quantise_weights(source: Path, directory: Path, bits: Literal[4, 8]) -> None:
    """Writes the exported model in `source` with matrix products of weights of so many bits, computed in fp32.

    The tables of word vectors get 8 bits. Raises as `quantise` does.
    """

    def change(model: onnx.ModelProto) -> onnx.ModelProto:
        quantised = quantise_products(model, bits)
        quantise_tables(quantised.graph)
        return quantised

    be_calm()
    rewrite(source, directory, change)


def be_calm() -> None:
    logging.getLogger().setLevel(logging.WARNING)  # importing the quantiser has made everybody talkative
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Hands the inputs to the quantiser, batch by batch."""

    def __init__(self, batches: Iterable[Feeds]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self.batches, None)


def quantise_convolutions(source: Path, target: Path, batches: Iterable[Feeds]) -> None:
    with TemporaryDirectory() as folder:
        prepared = Path(folder, target.name)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Calibration(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,  # else 8-bit products overflow 16 bits on processors without VNNI
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def quantise_products(model: onnx.ModelProto, bits: Literal[4, 8]) -> onnx.ModelProto:
    """Returns the model with weights of so many bits in its matrix products."""
    settings = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=FP32_PRODUCTS,
        op_types_to_quantize=("MatMul",),
        bits=bits,
    )
    quantiser = MatMulNBitsQuantizer(model, algo_config=settings)
    quantiser.process()
    quantised: onnx.ModelProto = quantiser.model.model
    return quantised


def quantise_tables(graph: onnx.GraphProto) -> None:
    """Replaces each float table that rows are looked up in by an int8 one and a scale a row."""
    weights = {
        weight.name: weight
        for weight in graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2
    }
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in weights:
            continue
        name = node.input[0]
        table = numpy_helper.to_array(weights[name])
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rounded = np.round(table / scales).astype(np.int8)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(rounded, f"{name}_int8"),
                numpy_helper.from_array(scales, f"{name}_scales"),
            ]
        )
        position, rows, output = list(graph.node).index(node), node.input[1], node.output[0]
        graph.node.remove(node)
        for number, replacement in enumerate(
            (
                helper.make_node("Gather", [f"{name}_int8", rows], [f"{output}_int8"]),
                helper.make_node("Gather", [f"{name}_scales", rows], [f"{output}_scales"]),
                helper.make_node("Cast", [f"{output}_int8"], [f"{output}_float"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [f"{output}_float", f"{output}_scales"], [output]),
            )
        ):
            graph.node.insert(position + number, replacement)
