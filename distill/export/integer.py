"""Scores of an int8 table by integer products."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

Q_LIMIT = 63  # of the query: 7 bits


def names_of_int8(name: str) -> tuple[str, str]:
    """Names under which `codecs.int8` keeps the codes (R, C) and the scales (R, 1) of a matrix."""
    return f"{name}.int8", f"{name}.scale"


def integer_scores(name: str, query: str, bias: str) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes and tensors that score a table stored by `codecs.int8`.

    The query u (scaled to [-1, 1] by its own largest entry, so that a row doesn't depend on its batch) becomes two
    vectors of 7 bits, u = (q1 + q2 / 126) / 63, which go through one integer product together: 13 bits for the price of
    a second row, and all that is left is the error of the tables. Seven bits, because CPUs without VNNI add pairs of
    products in 16 bits: 2 * 127 * 127 fits, 2 * 255 * 127 would saturate without a word.

    Args:
        name: Name of the table, (R, D).
        query: Name of the queries (B, D).
        bias: Name of the biases (R,).
    """
    tensors: dict[str, np.ndarray] = {
        "axis_1": np.array([1], np.int64),
        "zero_point": np.array(Q_LIMIT + 1, np.uint8),
        "coarse_step": np.array(1 / Q_LIMIT, np.float32),
        "fine_step": np.array(1 / (Q_LIMIT * 2 * Q_LIMIT), np.float32),
        "steps": np.array([[1 / Q_LIMIT, 1 / (Q_LIMIT * 2 * Q_LIMIT)]], np.float32),
        "smallest": np.array(1e-30, np.float32),  # a query of zeros stays zero instead of 0 / 0
    }
    table, scale = names_of_int8(name)
    make = helper.make_node
    nodes = [
        make("Abs", [query], ["magnitudes"]),
        make("ReduceMax", ["magnitudes", "axis_1"], ["peak"], keepdims=1),
        make("Max", ["peak", "smallest"], ["length"]),  # (B, 1)
        make("Div", [query, "length"], ["unit"]),
        make("QuantizeLinear", ["unit", "coarse_step", "zero_point"], ["coarse"]),
        make("DequantizeLinear", ["coarse", "coarse_step", "zero_point"], ["approximation"]),
        make("Sub", ["unit", "approximation"], ["remainder"]),
        make("QuantizeLinear", ["remainder", "fine_step", "zero_point"], ["fine"]),
        make("Unsqueeze", ["coarse", "axis_1"], ["coarse_row"]),
        make("Unsqueeze", ["fine", "axis_1"], ["fine_row"]),
        make("Concat", ["coarse_row", "fine_row"], ["both"], axis=1),  # (B, 2, D)
        make("Transpose", [table], ["columns"], perm=[1, 0]),  # done once, when the file is loaded; so are these two:
        make("Cast", [scale], ["scale_column"], to=TensorProto.FLOAT),
        make("Squeeze", ["scale_column", "axis_1"], ["scale_row"]),
        make("MatMulInteger", ["both", "columns", "zero_point"], ["products"]),  # (B, 2, R)
        make("Cast", ["products"], ["real_products"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["length", "axis_1"], ["length_row"]),
        make("Mul", ["length_row", "steps"], ["shares"]),  # (B, 1, 2)
        make("MatMul", ["shares", "real_products"], ["sums"]),  # (B, 1, R)
        make("Squeeze", ["sums", "axis_1"], ["sum_rows"]),
        make("Mul", ["sum_rows", "scale_row"], ["dots"]),
        make("Add", ["dots", bias], ["all_scores"]),
    ]
    return nodes, tensors
