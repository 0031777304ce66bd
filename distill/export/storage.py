"""An encoder with its weights in a stored form, and what its layers are multiplied with on real histories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from distill.errors import UserError
from distill.export.codecs import Codec, Stored
from distill.export.rounding import Moments
from distill.serving.session import open_session

SMALL = 1024  # matrices with fewer entries stay float32
BATCH = 512
Measured = dict[str, Moments]
ITEM_VECTORS = "item vectors"


def item_moments(rows: np.ndarray) -> Moments:
    """By what errors of the history's side are multiplied: the item vectors (N, D), around their mean.

    An error e of a history's row moves the query by about a multiple of e, and the scores by e . x_i: what is the same
    for all items moves no list. This holds where queries and items share a space, as pools of item vectors do.
    """
    spread = Moments.of(rows)
    return Moments(np.zeros_like(spread.mean), spread.covariance)


def measure_moments(encoder: onnx.ModelProto, histories: np.ndarray) -> Measured:
    """Runs the encoder on real histories and looks at what its constant matrices are multiplied with.

    Args:
        encoder: A traced encoder.
        histories: Item indices (Q, L), padded on the left with N.

    Returns:
        Moments by the name of the matrix, for layers `x W` or `x W'`; and of the queries, under "query".

    Raises:
        UserError: onnxruntime can't run the encoder.
    """
    inputs = {weight: node.input[0] for weight, node in _layers(encoder).items()}
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    wanted = sorted(set(inputs.values()) - {"query"})
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    session = open_session(model.SerializeToString())
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in range(0, len(histories), BATCH):
        try:
            found = session.run(["query", *wanted], {"history": histories[start : start + BATCH]})
        except Exception as error:  # onnxruntime's own exceptions share no public base class
            raise UserError(
                f"onnxruntime can't run the exported user side on train histories: {error} Write encode so that its "
                "result's shape doesn't hang on the values of the history."
            ) from error
        for name, values in zip(["query", *wanted], found, strict=True):
            seen[name].append(values.reshape(-1, values.shape[-1]))
    moments = {name: Moments.of(np.concatenate(values)) for name, values in seen.items()}
    return {"query": moments["query"], **{weight: moments[name] for weight, name in inputs.items()}}


def tied_table(encoder: onnx.ModelProto, rows: np.ndarray) -> str:
    """Name of the encoder's table that holds the item rows already, so that one copy serves both sides; else "".

    Args:
        encoder: A traced encoder.
        rows: Item vectors with the padding row last, (N + 1, D). The encoder's table may lack that row.
    """
    close = 1e-6 * float(np.abs(rows).max(initial=0.0))
    n_items = len(rows) - 1
    for name in lookup_tables(encoder, n_items):
        tensor = next(t for t in encoder.graph.initializer if t.name == name)
        if tuple(tensor.dims) in (rows.shape, (n_items, rows.shape[1])):
            values = numpy_helper.to_array(tensor)[:n_items]
            if np.allclose(values, rows[:-1], rtol=0, atol=close):
                return name
    return ""


def padding_row(encoder: onnx.ModelProto, tied: str, rows: np.ndarray) -> np.ndarray:
    """What the history's side reads for padding, (D,): a student may have learned that row. Never scored: bias -inf."""
    tensor = next((t for t in encoder.graph.initializer if t.name == tied), None)
    return rows[-1] if tensor is None or tensor.dims[0] < len(rows) else numpy_helper.to_array(tensor)[len(rows) - 1]


def lookup_tables(encoder: onnx.ModelProto, n_items: int) -> list[str]:
    """Float matrices with a row an item (N rows or more) that are only ever looked up."""
    readers = _readers(encoder)
    return [
        tensor.name
        for tensor in encoder.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.dims[0] >= n_items
        and readers[tensor.name]
        and all(_looks_up(node, tensor.name) for node in readers[tensor.name])
    ]


def store_encoder(
    encoder: onnx.ModelProto, n_items: int, table: Codec, matrix: Codec, measured: Measured, ready: dict[str, Stored]
) -> onnx.ModelProto:
    """The same encoder with smaller weights.

    Item tables stay small in memory too: rows are looked up and then made float32. Other matrices are made float32 by
    nodes that read constants alone, which the runtime evaluates once, while loading.

    Args:
        encoder: An encoder with float32 initializers.
        n_items: N.
        table: Codec of tables with a row an item.
        matrix: Codec of other matrices.
        measured: From `measure_moments`, and `item_moments` as ITEM_VECTORS; {} rounds each entry by itself.
        ready: Tables that are stored already, by name. Their tensors are left to the caller.
    """
    layers, looked_up = _layers(encoder), lookup_tables(encoder, n_items)
    tables = dict(ready)
    tensors: dict[str, TensorProto] = {}
    first: list[NodeProto] = []  # nodes that remake a matrix
    for tensor in encoder.graph.initializer:
        name = tensor.name
        if name in ready:
            continue
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2 or int(np.prod(tensor.dims)) < SMALL:
            tensors[name] = tensor
            continue
        values = numpy_helper.to_array(tensor)
        if name in looked_up:
            known = measured.get(ITEM_VECTORS)
            fits = known is not None and len(known.mean) == values.shape[1]
            tables[name] = table(name, values, known if fits else None)
            small = dict(tables[name].tensors)
        else:
            remade, small = _stored_matrix(values, name, layers.get(name), matrix, measured.get(name))
            first += remade
        tensors |= {key: numpy_helper.from_array(value, key) for key, value in small.items()}
    nodes: list[NodeProto] = []
    for node in encoder.graph.node:
        found = tables.get(node.input[0]) if node.op_type == "Gather" else None
        nodes += [node] if found is None else found.looked_up(node.input[1], node.output[0])
    first += [node for stored in tables.values() for node in stored.remade]
    graph = helper.make_graph(
        [*first, *nodes],
        "student",
        list(encoder.graph.input),
        list(encoder.graph.output),
        list(tensors.values()),
    )
    return helper.make_model(
        graph, opset_imports=encoder.opset_import, ir_version=encoder.ir_version, functions=list(encoder.functions)
    )


def _stored_matrix(
    values: np.ndarray, name: str, layer: NodeProto | None, codec: Codec, moments: Moments | None
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """Nodes that remake a matrix, and the tensors they read. It is stored with a row for each output of its layer."""
    if layer is not None and not _transposed(layer):  # x W: columns are outputs
        stored = codec(f"{name}.rows", np.ascontiguousarray(values.T), moments)
        back = [helper.make_node("Transpose", [f"{name}.rows"], [name], perm=[1, 0])]
        return [*stored.whole, *back], dict(stored.tensors)
    if values.ndim == 2:
        stored = codec(name, values, moments)
        return stored.whole, dict(stored.tensors)
    stored = codec(f"{name}.rows", values.reshape(-1, values.shape[-1]), None)
    back = [helper.make_node("Reshape", [f"{name}.rows", f"{name}.shape"], [name])]
    return [*stored.whole, *back], {**stored.tensors, f"{name}.shape": np.array(values.shape, np.int64)}


def _layers(encoder: onnx.ModelProto) -> dict[str, NodeProto]:
    """The node that multiplies activations with a constant matrix, by the matrix; matrices with one reader only."""
    constants = {t.name for t in encoder.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2}
    return {
        name: nodes[0]
        for name, nodes in _readers(encoder).items()
        if name in constants
        and len(nodes) == 1
        and nodes[0].op_type in ("Gemm", "MatMul")
        and nodes[0].input[1] == name
        and nodes[0].input[0] not in constants
        and not any(a.name == "transA" and a.i for a in nodes[0].attribute)
    }


def _transposed(layer: NodeProto) -> bool:
    return any(a.name == "transB" and a.i == 1 for a in layer.attribute)


def _readers(encoder: onnx.ModelProto) -> dict[str, list[NodeProto]]:
    """Who reads each value, subgraphs of loops and branches included."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    _walk(list(encoder.graph.node), lambda node, name: readers[name].append(node))
    return readers


def _walk(nodes: list[NodeProto], see: Callable[[NodeProto, str], None]) -> None:
    for node in nodes:
        for name in node.input:
            see(node, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = list(attribute.g.node)
                # What a subgraph reads from outside is no plain lookup or layer: the node that holds it reads it.
                _walk(inner, lambda _, name, holder=node: see(holder, name))  # type: ignore[misc]


def _looks_up(node: NodeProto, table: str) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    return node.op_type == "Gather" and axis == 0 and node.input[0] == table and node.input[1] != table
