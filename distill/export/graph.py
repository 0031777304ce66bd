"""The whole exported graph: an encoder, a scoring head over all items, the mask of seen items, and top k.

    history (B, L) -> encoder -> query (B, D) -> scores (B, N + 1) -> seen items to -inf -> TopK -> ids, scores (B, k)

Item N is padding. It has a row of its own with bias -inf, so that padded places of `seen` may point at it and no column
has to be added or cut off while serving. Equal scores come out with the lower item index first, which TopK promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distill.errors import UserError
from distill.export.codecs import Head
from distill.export.encoder import IR_VERSION, Exportable, folded_items, trace_encoder
from distill.export.layers import integer_layers
from distill.export.rounding import bias_shift
from distill.export.storage import (
    ITEM_VECTORS,
    Measured,
    item_moments,
    measure_moments,
    padding_row,
    store_encoder,
    tied_table,
)
from distill.export.variants import Variant, parse

ITEMS, BIAS = "items", "items.bias"


@dataclass(frozen=True)
class Traced:
    """What all variants of a student are made from.

    Attributes:
        encoder: What `trace_encoder` returned.
        rows: Item vectors with the padding row last, (N + 1, D).
        bias: Item biases, -inf for padding, (N + 1,).
        measured: What the layers and the table are multiplied with; {} without histories.
        histories: Real histories (Q, L), padded on the left with N, by which roundings are calibrated.
        users: Whether what is known of a user is added to the query.
    """

    encoder: onnx.ModelProto
    rows: np.ndarray
    bias: np.ndarray
    measured: Measured
    histories: np.ndarray | None
    users: bool = False

    @property
    def dim(self) -> int:
        """Width D of the item vectors."""
        return self.rows.shape[1]


def trace(student: Exportable, max_length: int, histories: np.ndarray | None = None) -> Traced:
    """Traces a student once, for any number of variants.

    Args:
        student: A student in evaluation mode.
        max_length: Longest history that the student is asked about.
        histories: Real histories (Q, L); without them each number is rounded by itself.

    Raises:
        UserError: The student can't be exported.
    """
    table, bias = folded_items(student)
    encoder = trace_encoder(student, max_length)
    _check_query(student, encoder, table.shape[1])
    measured: Measured = {}
    if histories is not None and len(histories):
        measured = {**measure_moments(encoder, histories), ITEM_VECTORS: item_moments(table)}
    rows, biases = np.pad(table, ((0, 1), (0, 0))), np.append(bias, np.float32(-np.inf))
    return Traced(encoder, rows, biases, measured, histories, bool(getattr(student, "user_width", 0)))


def build_graphs(
    student: Exportable, variants: Sequence[str], max_length: int, histories: np.ndarray | None = None
) -> dict[str, onnx.ModelProto]:
    """The graphs of all wanted variants of one student.

    Args:
        student, max_length, histories: As in `trace`.
        variants: Words as `variants.parse` reads them.

    Returns:
        Complete graphs by variant. Inputs `history` (B, L), `seen` (B, S) and `k` (1,), all int64 with items padded by
        N, and of a student with a user side `user` (B, D) float32, which may be left out; outputs `ids` (B, k) int64
        with -1 where fewer than k items are left, `scores` (B, k) and `query` (B, D).

    Raises:
        UserError: A variant is unknown, or the student can't be exported.
    """
    dim = student.item_table().shape[1]
    wanted = {word: parse(word, dim) for word in variants}
    traced = trace(student, max_length, histories)
    return {word: build_graph(variant, traced) for word, variant in wanted.items()}


def build_graph(variant: Variant, traced: Traced) -> onnx.ModelProto:
    """One variant's whole graph."""
    encoder, rows, queries = traced.encoder, traced.rows.copy(), traced.measured.get("query")
    tied = tied_table(encoder, rows)
    rows[-1] = padding_row(encoder, tied, rows)
    stored = variant.table(tied or ITEMS, rows, queries)
    if variant.arithmetic:
        encoder = integer_layers(encoder, variant.arithmetic, traced.histories)
    ready = {tied: stored} if tied else {}
    small = store_encoder(encoder, len(rows) - 1, variant.table, variant.form.matrix, traced.measured, ready)
    nodes, tensors = stored.scores("query", BIAS)
    known = {name for node in small.graph.node for name in node.output}  # a tied table that the encoder has remade
    nodes = [node for node in nodes if node.output[0] not in known]
    biases = traced.bias + bias_shift(rows, stored.value, queries)
    if variant.form.half_bias:
        tensors[f"{BIAS}.half"] = biases.astype(np.float16)
        nodes.insert(0, helper.make_node("Cast", [f"{BIAS}.half"], [BIAS], to=TensorProto.FLOAT))
    else:
        tensors[BIAS] = biases
    return assemble(small, (nodes, {**stored.tensors, **tensors}), traced.users)


def assemble(encoder: onnx.ModelProto, head: Head, users: bool = False) -> onnx.ModelProto:
    """Encoder, head (from `query` to `all_scores`), seen mask and top k in one checked graph.

    With `users` it has the input `user` (B, D), which is added to the query. Its default, zeros (1, D), is an
    initializer of the same name, so a caller may leave it out.
    """
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
    user = [info("user", real, ["users", dim])] if users else []
    weights |= {"user": np.zeros((1, dim), np.float32)} if users else {}
    graph = helper.make_graph(
        [*(_with_user(encoder) if users else encoder.graph.node), *nodes, *tail],
        "student",
        [
            info("history", whole, ["batch", "length"]),
            info("seen", whole, ["batch", "seen"]),
            info("k", whole, [1]),
            *user,
        ],
        [info("ids", whole, ["batch", "k"]), info("scores", real, ["batch", "k"]), info("query", real, ["batch", dim])],
        [*encoder.graph.initializer, *(numpy_helper.from_array(value, name) for name, value in weights.items())],
    )
    model = helper.make_model(
        graph, opset_imports=encoder.opset_import, ir_version=IR_VERSION, functions=list(encoder.functions)
    )
    model.producer_name = "taildistill"
    onnx.checker.check_model(model)
    return model


def _with_user(encoder: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The encoder's nodes, with the user's vector added to what they call the query."""
    nodes = []
    for old in encoder.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(old)
        for names in (node.input, node.output):
            names[:] = ["history_query" if name == "query" else name for name in names]
        nodes.append(node)
    return [*nodes, helper.make_node("Add", ["history_query", "user"], ["query"])]


def _check_query(student: Exportable, encoder: onnx.ModelProto, dim: int) -> None:
    kind = encoder.graph.output[0].type.tensor_type
    shape = [d.dim_param or d.dim_value for d in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1] != dim or shape[0] == 2:
        raise UserError(
            f"{type(student).__name__}.encode gives {TensorProto.DataType.Name(kind.elem_type)} of shape {shape}; "
            f"expected FLOAT of shape ['batch', {dim}] with a free batch size: one query a history, as wide as an item."
        )
