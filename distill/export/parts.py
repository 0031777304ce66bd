"""Other graphs of the same student: history to scores, and history to query beside the item table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distill.export.encoder import IR_VERSION, read_by


def scores_graph(model: onnx.ModelProto, n_items: int) -> onnx.ModelProto:
    """`history` (B, L) -> `scores` (B, N) of all items in index order, nothing masked."""
    cut = {"first": [0], "end": [n_items], "item_axis": [1]}
    node = helper.make_node("Slice", ["all_scores", *cut], ["scores"])
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in cut.items()]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", n_items])
    kept = [node for node in model.graph.node if "scores" not in node.output]  # of the top k
    return _part(model, [*kept, node], tensors, output)


def query_graph(model: onnx.ModelProto, n_items: int) -> onnx.ModelProto:
    """`history` (B, L) -> `query` (B, D); scores are query @ vectors.T + bias with the table beside it."""
    output = next(value for value in model.graph.output if value.name == "query")
    return _part(model, list(model.graph.node), [], output)


GRAPHS: dict[str, Callable[[onnx.ModelProto, int], onnx.ModelProto]] = {"scores": scores_graph, "query": query_graph}
WHOLE = "top_k"


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto],
    output: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    """What one output needs of a graph, and nothing else."""
    needed, kept = {output.name}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= read_by(node)
    graph = helper.make_graph(
        kept[::-1],
        model.graph.name,
        [value for value in model.graph.input if value.name in needed],
        [output],
        [tensor for tensor in [*model.graph.initializer, *tensors] if tensor.name in needed],
    )
    part = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=IR_VERSION, functions=list(model.functions)
    )
    part.producer_name = model.producer_name
    onnx.checker.check_model(part)
    return part
