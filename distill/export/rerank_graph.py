"""Two stages in one graph: a dot product retrieves, a scorer of pairs reranks what was found.

    history -> state -> query -> scores of all items -> seen items to -inf -> TopK (candidates)
            -> + correction(state, candidates) -> TopK (k) -> ids, scores

With k above the number of candidates, k are retrieved; so lists of length N hold the corrected score of every item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.errors import UserError
from distill.export.encoder import IR_VERSION, Exportable, folded_items, trace_encoder, traced
from distill.export.graph import Traced, build_graph
from distill.export.storage import ITEM_VECTORS, item_moments, measure_moments, store_encoder
from distill.export.variants import Variant, parse

STATE = "state"


class Pairwise(Exportable, Protocol):
    """What export asks of a student of pairs (see students.protocol.PairwiseStudent for shapes)."""

    candidates: int

    def correction(self, state: Tensor, items: Tensor) -> Tensor:
        """What is added (B, C) to the scores of items (B, C) for states (B, S)."""


class _Correction(nn.Module):
    """`correction` as a forward, which is what the exporter traces."""

    def __init__(self, student: Pairwise) -> None:
        super().__init__()
        self.student = student

    def forward(self, state: Tensor, items: Tensor) -> Tensor:
        return self.student.correction(state, items)


def rerank_graphs(
    student: Pairwise, variants: Sequence[str], max_length: int, histories: np.ndarray | None = None
) -> dict[str, onnx.ModelProto]:
    """The graphs of all wanted variants of a student of pairs; arguments and results as in `graph.build_graphs`.

    Raises:
        UserError: A variant is unknown, or the student can't be exported.
    """
    table, bias = folded_items(student)
    dim = table.shape[1]
    wanted = {word: parse(word, dim) for word in variants}
    encoder, width = _with_query(student, trace_encoder(student, max_length), dim)
    pairs = trace_correction(student, width)
    measured: Any = {}
    if histories is not None and len(histories):
        measured = {**measure_moments(encoder, histories), ITEM_VECTORS: item_moments(table)}
    rows, biases = np.pad(table, ((0, 1), (0, 0))), np.append(bias, np.float32(-np.inf))
    known = Traced(encoder, rows, biases, measured, histories)
    count = min(student.candidates, student.n_items)
    return {word: _reranked(build_graph(v, known), pairs, v, student.n_items, count) for word, v in wanted.items()}


def trace_correction(student: Pairwise, width: int) -> onnx.ModelProto:
    """`correction` as a graph: `state` (B, S) and `candidates` (B, C), int64, to `corrections` (B, C).

    Args:
        student: In evaluation mode.
        width: S.
    """
    example = {STATE: torch.zeros(2, width), "candidates": torch.zeros(2, min(3, student.n_items), dtype=torch.int64)}
    batch = torch.export.Dim("batch")
    sizes = {STATE: {0: batch}, "items": {0: batch, 1: torch.export.Dim("candidates")}}
    return traced(student, _Correction(student), example, sizes, "corrections", "pair.")


def _with_query(student: Pairwise, encoder: onnx.ModelProto, dim: int) -> tuple[onnx.ModelProto, int]:
    """The encoder with its result called `state`, and its first D numbers as `query`; and the state's width S.

    Raises:
        UserError: The state is narrower than the items, or no float matrix.
    """
    kind = encoder.graph.output[0].type.tensor_type
    shape = [d.dim_param or d.dim_value for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < dim:
        raise UserError(
            f"{type(student).__name__}.encode gives {TensorProto.DataType.Name(kind.elem_type)} of shape {shape}; "
            f"expected FLOAT of shape ['batch', S], S at least the {dim} dimensions of an item."
        )
    nodes = []
    for old in encoder.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        for names in (node.input, node.output):
            names[:] = [STATE if name == "query" else name for name in names]
        nodes.append(node)
    cut = {"query.first": [0], "query.end": [dim], "query.axis": [1]}
    nodes.append(helper.make_node("Slice", [STATE, *cut], ["query"]))
    tensors = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in cut.items()]
    graph = helper.make_graph(
        nodes,
        "student",
        list(encoder.graph.input),
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, ["batch", dim])],
        [*encoder.graph.initializer, *tensors],
    )
    return helper.make_model(graph, opset_imports=encoder.opset_import, ir_version=IR_VERSION), shape[1]


def _reranked(
    model: onnx.ModelProto, pairs: onnx.ModelProto, variant: Variant, n_items: int, candidates: int
) -> onnx.ModelProto:
    """A complete graph of the first stage with the second behind it."""
    second = store_encoder(pairs, n_items, variant.form.table, variant.form.matrix, {}, {})
    ends = ("scores", "places", "listed", "ids")
    make = helper.make_node
    first = [node for node in model.graph.node if not set(node.output) & set(ends)]
    retrieve = [
        make("Max", ["k", "retrieved"], ["depth"]),
        make("TopK", ["open_scores", "depth"], ["first_scores", "first_places"], axis=1),
        make("Min", ["first_places", "last_item"], ["candidates"]),  # padding has the score -inf, but no row
    ]
    rerank = [
        make("Add", ["first_scores", "corrections"], ["corrected"]),
        make("TopK", ["corrected", "k"], ["scores", "slots"], axis=1),
        make("GatherElements", ["candidates", "slots"], ["places"], axis=1),
        make("Greater", ["scores", "never"], ["listed"]),
        make("Where", ["listed", "places", "no_item"], ["ids"]),
    ]
    constants = {"retrieved": np.array([candidates], np.int64), "last_item": np.array(n_items - 1, np.int64)}
    graph = helper.make_graph(
        [*first, *retrieve, *second.graph.node, *rerank],
        "student",
        list(model.graph.input),
        list(model.graph.output),
        [
            *model.graph.initializer,
            *second.graph.initializer,
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
        ],
    )
    whole = helper.make_model(graph, opset_imports=model.opset_import, ir_version=IR_VERSION)
    whole.producer_name = model.producer_name
    onnx.checker.check_model(whole)
    return whole
