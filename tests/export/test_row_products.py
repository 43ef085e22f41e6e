"""Products of 8-bit rows are those that the rounding says, and a row's does not depend on the others."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from components.export.row_products import quantise_rows

Array = NDArray[np.float32]
WIDTH, COLUMNS = 24, 10


@pytest.fixture
def matrix() -> Array:
    return np.random.default_rng(0).normal(size=(WIDTH, COLUMNS)).astype(np.float32)


def model(matrix: Array, *, transformed: bool = True) -> onnx.ModelProto:
    """Two products of the same rows, `(batch, length, width)`, by a matrix and its negative."""
    places: list[str | None] = ["batch", "length"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["rows", "matrix"], ["product"]),
            helper.make_node("MatMul", ["rows", "negative"], ["opposite"]),
        ],
        "products",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [*places, WIDTH])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [*places, COLUMNS])
            for name in ("product", "opposite")
        ],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(-matrix, "negative")],
    )
    if transformed:
        quantise_rows(graph)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(made: onnx.ModelProto, rows: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": rows})


def rounded(rows: Array, matrix: Array) -> NDArray[np.float64]:
    """The same by numpy: rows to 255 steps about their zero, columns to 127."""
    row_scales = np.abs(rows).max(axis=-1, keepdims=True) / 127
    column_scales = np.abs(matrix).max(axis=0) / 63
    integers = np.round(rows / row_scales) @ np.round(matrix / column_scales)
    return integers * row_scales * column_scales


def test_the_answer_is_that_of_rounded_rows_and_columns(matrix: Array) -> None:
    rows = np.random.default_rng(1).normal(size=(3, 5, WIDTH)).astype(np.float32)
    product, opposite = run(model(matrix), rows)
    np.testing.assert_allclose(product, rounded(rows, matrix), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(opposite, -product, rtol=1e-6)
    (exact, _) = run(model(matrix, transformed=False), rows)
    assert 1e-4 < np.abs(product - exact).max() < 0.2


def test_a_row_does_not_depend_on_its_neighbours(matrix: Array) -> None:
    """One scale of the whole batch would round the small row to nothing."""
    small, large = np.full((1, 1, WIDTH), 1e-3, np.float32), np.full((1, 1, WIDTH), 1e3, np.float32)
    alone = run(model(matrix), small)[0]
    beside = run(model(matrix), np.concatenate([small, large]))[0][:1]
    assert np.abs(alone).max() > 0
    assert np.array_equal(alone, beside)


def test_a_row_of_zeros_is_answered_by_zeros(matrix: Array) -> None:
    assert not run(model(matrix), np.zeros((2, 1, WIDTH), np.float32))[0].any()


def test_the_matrix_in_fp32_is_gone(matrix: Array) -> None:
    weights = {weight.name: weight.data_type for weight in model(matrix).graph.initializer}
    assert weights["matrix_int8"] == TensorProto.INT8
    assert "matrix" not in weights


def test_a_product_of_two_activations_stays() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "activations",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4, 4])],
    )
    quantise_rows(graph)
    assert [node.op_type for node in graph.node] == ["MatMul"]
    assert not graph.initializer
