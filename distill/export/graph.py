"""The whole exported graph: an encoder, a scoring head over all items, the mask of seen items, and top k.

    history (B, L) -> encoder -> query (B, D) -> scores (B, N + 1) -> seen items to -inf -> TopK -> ids, scores (B, k)

Item N is padding. It has a row of its own with bias -inf, so that padded places of `seen` may point at it and no column
has to be added or cut off while serving. Equal scores come out with the lower item index first, which TopK promises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distill.errors import UserError
from distill.export.encoder import IR_VERSION, Exportable, folded_items, trace_encoder
from distill.export.quantise import Q_LIMIT, int8_storage, names_of_int8, quantise_rows
from distill.plugins import nearest

Head = tuple[list[NodeProto], dict[str, np.ndarray]]


def build_graphs(student: Exportable, variants: list[str], max_length: int) -> dict[str, onnx.ModelProto]:
    """The graphs of all wanted variants of one student.

    Args:
        student: A student in evaluation mode.
        variants: Names in `VARIANTS`.
        max_length: Longest history that the student is asked about.

    Returns:
        Complete graphs by variant. Inputs `history` (B, L), `seen` (B, S) and `k` (1,), all int64 with items padded by
        N; outputs `ids` (B, k) int64 with -1 where fewer than k items are left, `scores` (B, k) and `query` (B, D).

    Raises:
        UserError: A variant is unknown, or the student can't be exported.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"'export.variants' holds '{name}', which is no variant{nearest(name, VARIANTS)}.")
    table, bias = folded_items(student)
    encoder = trace_encoder(student, max_length)
    _check_query(student, encoder, table.shape[1])
    rows, biases = np.pad(table, ((0, 1), (0, 0))), np.append(bias, np.float32(-np.inf))
    return {name: VARIANTS[name](encoder, rows, biases) for name in variants}


def fp32(encoder: onnx.ModelProto, rows: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """Everything in float32. Scores are one Gemm with transB, which keeps a single copy of the rows in memory.

    Args:
        encoder: What `trace_encoder` returned.
        rows: Item vectors with the padding row last, (N + 1, D).
        bias: Item biases, -inf for padding, (N + 1,).
    """
    tied = tied_table(encoder, rows)
    weights = {"items.bias": bias} if tied else {"items": rows, "items.bias": bias}
    nodes = [helper.make_node("Gemm", ["query", tied or "items", "items.bias"], ["all_scores"], transB=1)]
    return assemble(encoder, (nodes, weights))


def int8(encoder: onnx.ModelProto, rows: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """Tables and weight matrices as int8 with one float32 scale a row; scores by integer products.

    The query u (scaled to [-1, 1] by its own largest entry, so that a row doesn't depend on its batch) becomes two
    vectors of 7 bits, u = (q1 + q2 / 126) / 63, which go through one integer product together: 13 bits for the price of
    a second row, and all that is left is the error of the tables. Seven bits, because CPUs without VNNI add pairs of
    products in 16 bits: 2 * 127 * 127 fits, 2 * 255 * 127 would saturate without a word.

    Args:
        encoder, rows, bias: As in `fp32`.
    """
    small_encoder = int8_storage(encoder, len(rows) - 1)
    table, scale = names_of_int8(tied_table(encoder, rows))
    tied = any(tensor.name == scale and list(tensor.dims) == [len(rows)] for tensor in small_encoder.graph.initializer)
    if not tied:
        table, scale = names_of_int8("items")
    weights: dict[str, np.ndarray] = {
        "items.bias": bias,
        "axis_1": np.array([1], np.int64),
        "zero_point": np.array(Q_LIMIT + 1, np.uint8),
        "coarse_step": np.array(1 / Q_LIMIT, np.float32),
        "fine_step": np.array(1 / (Q_LIMIT * 2 * Q_LIMIT), np.float32),
        "steps": np.array([[1 / Q_LIMIT, 1 / (Q_LIMIT * 2 * Q_LIMIT)]], np.float32),
        "smallest": np.array(1e-30, np.float32),  # a query of zeros stays zero instead of 0 / 0
    }
    if not tied:
        weights[table], weights[scale] = quantise_rows(rows)
    make = helper.make_node
    nodes = [
        make("Abs", ["query"], ["magnitudes"]),
        make("ReduceMax", ["magnitudes", "axis_1"], ["peak"], keepdims=1),
        make("Max", ["peak", "smallest"], ["length"]),  # (B, 1)
        make("Div", ["query", "length"], ["unit"]),
        make("QuantizeLinear", ["unit", "coarse_step", "zero_point"], ["coarse"]),
        make("DequantizeLinear", ["coarse", "coarse_step", "zero_point"], ["approximation"]),
        make("Sub", ["unit", "approximation"], ["remainder"]),
        make("QuantizeLinear", ["remainder", "fine_step", "zero_point"], ["fine"]),
        make("Unsqueeze", ["coarse", "axis_1"], ["coarse_row"]),
        make("Unsqueeze", ["fine", "axis_1"], ["fine_row"]),
        make("Concat", ["coarse_row", "fine_row"], ["both"], axis=1),  # (B, 2, D)
        make("Transpose", [table], ["columns"], perm=[1, 0]),  # done once, when the file is loaded
        make("MatMulInteger", ["both", "columns", "zero_point"], ["products"]),  # (B, 2, N + 1)
        make("Cast", ["products"], ["real_products"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["length", "axis_1"], ["length_row"]),
        make("Mul", ["length_row", "steps"], ["shares"]),  # (B, 1, 2)
        make("MatMul", ["shares", "real_products"], ["sums"]),  # (B, 1, N + 1)
        make("Squeeze", ["sums", "axis_1"], ["sum_rows"]),
        make("Mul", ["sum_rows", scale], ["dots"]),
        make("Add", ["dots", "items.bias"], ["all_scores"]),
    ]
    return assemble(small_encoder, (nodes, weights))


VARIANTS: dict[str, Callable[[onnx.ModelProto, np.ndarray, np.ndarray], onnx.ModelProto]] = {"fp32": fp32, "int8": int8}


def assemble(encoder: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """Encoder, head (from `query` to `all_scores`), seen mask and top k in one checked graph."""
    nodes, weights = head
    weights = weights | {"never": np.array(-np.inf, np.float32), "no_item": np.array(-1, np.int64)}
    make = helper.make_node
    tail = [
        make("Shape", ["seen"], ["seen_shape"]),
        make("Expand", ["never", "seen_shape"], ["seen_scores"]),
        make("ScatterElements", ["all_scores", "seen", "seen_scores"], ["open_scores"], axis=1),
        make("TopK", ["open_scores", "k"], ["scores", "places"], axis=1),
        make("Greater", ["scores", "never"], ["listed"]),
        make("Where", ["listed", "places", "no_item"], ["ids"]),
    ]
    dim = encoder.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    info, whole, real = helper.make_tensor_value_info, TensorProto.INT64, TensorProto.FLOAT
    graph = helper.make_graph(
        [*encoder.graph.node, *nodes, *tail],
        "student",
        [info("history", whole, ["batch", "length"]), info("seen", whole, ["batch", "seen"]), info("k", whole, [1])],
        [info("ids", whole, ["batch", "k"]), info("scores", real, ["batch", "k"]), info("query", real, ["batch", dim])],
        [*encoder.graph.initializer, *(numpy_helper.from_array(value, name) for name, value in weights.items())],
    )
    model = helper.make_model(
        graph, opset_imports=encoder.opset_import, ir_version=IR_VERSION, functions=list(encoder.functions)
    )
    model.producer_name = "taildistill"
    onnx.checker.check_model(model)
    return model


def tied_table(encoder: onnx.ModelProto, rows: np.ndarray) -> str:
    """Name of the encoder's table that holds the item rows already, so that one copy serves both sides; else ""."""
    gathered = {node.input[0] for node in encoder.graph.node if node.op_type == "Gather"}
    close = 1e-6 * float(np.abs(rows).max(initial=0.0))
    for tensor in encoder.graph.initializer:
        alike = tensor.name in gathered and tuple(tensor.dims) == rows.shape and tensor.data_type == TensorProto.FLOAT
        if alike and np.allclose(numpy_helper.to_array(tensor)[:-1], rows[:-1], rtol=0, atol=close):
            return tensor.name
    return ""


def _check_query(student: Exportable, encoder: onnx.ModelProto, dim: int) -> None:
    kind = encoder.graph.output[0].type.tensor_type
    shape = [d.dim_param or d.dim_value for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1] != dim or shape[0] == 2:
        raise UserError(
            f"{type(student).__name__}.encode gives {TensorProto.DataType.Name(kind.elem_type)} of shape {shape}; "
            f"expected FLOAT of shape ['batch', {dim}] with a free batch size: one query a history, as wide as an item."
        )
