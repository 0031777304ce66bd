"""Row-wise symmetric int8: one int8 matrix and one float32 scale a row, x ~ scale * q.

One scale for a whole table would round items with short vectors to zero, and those are often the tail; a scale a row
keeps the relative error of every item the same: |x - scale * q| <= scale / 2 with scale = max|row| / 127.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

W_LIMIT = 127  # -128 is left out, so that the code is symmetric
Q_LIMIT = 63  # the query's limit: 7 bits, see distill.export.graph.int8
SMALL = 1024  # matrices with fewer entries stay float32


def quantise_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds each row to int8 with a scale of its own.

    Args:
        matrix: Finite floats (R, C).

    Returns:
        int8 (R, C) in -127..127, and scales float32 (R,); a row of zeros has scale 1.
    """
    matrix = np.asarray(matrix, np.float32)
    scale = np.abs(matrix).max(axis=1) / np.float32(W_LIMIT)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return np.clip(np.rint(matrix / scale[:, None]), -W_LIMIT, W_LIMIT).astype(np.int8), scale


def dequantise_rows(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The floats (R, C) that `quantise_rows` stands for."""
    return codes.astype(np.float32) * scale[:, None]


def names_of_int8(name: str) -> tuple[str, str]:
    """Names under which `int8_storage` keeps the codes and the scales of a matrix."""
    return f"{name}.int8", f"{name}.scale"


def int8_storage(encoder: onnx.ModelProto, n_items: int) -> onnx.ModelProto:
    """The same encoder with its matrices stored as row-wise int8.

    Item tables (N rows or more, only looked up) stay int8 in memory: rows are looked up and then scaled. Other matrices
    are made float32 again by a Cast and a Mul of constants, which the runtime evaluates once, while loading.

    Args:
        encoder: An encoder with float32 initializers.
        n_items: N.
    """
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in encoder.graph.node:
        for name in node.input:
            readers[name].append(node)
    tensors: list[TensorProto] = []
    first: list[NodeProto] = []  # nodes that remake a matrix
    looked_up: set[str] = set()
    for tensor in encoder.graph.initializer:
        size = int(np.prod(tensor.dims))
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or size < SMALL:
            tensors.append(tensor)
            continue
        codes, scale = quantise_rows(numpy_helper.to_array(tensor))
        code_name, scale_name = names_of_int8(tensor.name)
        if tensor.dims[0] >= n_items and all(_looks_up(node, tensor.name) for node in readers[tensor.name]):
            looked_up.add(tensor.name)
        else:
            scale = scale[:, None]
            first += [
                helper.make_node("Cast", [code_name], [f"{tensor.name}.real"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{tensor.name}.real", scale_name], [tensor.name]),
            ]
        tensors += [numpy_helper.from_array(codes, code_name), numpy_helper.from_array(scale, scale_name)]
    if looked_up:
        tensors.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    nodes = [new for node in encoder.graph.node for new in _scaled_lookup(node, looked_up)]
    graph = helper.make_graph(
        [*first, *nodes], "student", list(encoder.graph.input), list(encoder.graph.output), tensors
    )
    return helper.make_model(
        graph, opset_imports=encoder.opset_import, ir_version=encoder.ir_version, functions=list(encoder.functions)
    )


def _looks_up(node: NodeProto, table: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and node.input[0] == table and node.input[1] != table


def _scaled_lookup(node: NodeProto, tables: set[str]) -> list[NodeProto]:
    """Gather(table, items) as Gather(codes) * Gather(scales); other nodes as they are."""
    if node.op_type != "Gather" or node.input[0] not in tables:
        return [node]
    items, result = node.input[1], node.output[0]
    code_name, scale_name = names_of_int8(node.input[0])
    make = helper.make_node
    return [
        make("Gather", [code_name, items], [f"{result}.int8"]),
        make("Cast", [f"{result}.int8"], [f"{result}.real"], to=TensorProto.FLOAT),
        make("Gather", [scale_name, items], [f"{result}.scale"]),
        make("Unsqueeze", [f"{result}.scale", "last_axis"], [f"{result}.scale_column"]),
        make("Mul", [f"{result}.real", f"{result}.scale_column"], [result]),
    ]
