"""A student's further heads as one small graph behind the query: ratings, and probabilities of clicks or likes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.functional import embedding

from distill.errors import UserError
from distill.export.bundle import write_model
from distill.export.encoder import IR_VERSION, OPSET
from distill.export.gate import FLOAT32
from distill.serving.heads import HEADS, HeadGraph

ITEMS_EACH = 10  # items whose values are compared, for each history
MOST_ERROR = {True: 0.01, False: 0.1}  # standard deviations of the values; of float32 files and of smaller ones


@torch.no_grad()
def head_graph(student: Any) -> onnx.ModelProto:
    """Values of all heads for some items of each query, without what is known of the user's own level.

    value_h = base_h + b_hi + w_h . (q * v_i) + u_h . q + v_h . v_i is (w_h * q) . v_i, a number of the query and one
    of the item. The item vectors are stored in float16, which ratings and probabilities don't notice.

    Args:
        student: With heads, in evaluation mode.

    Returns:
        A graph with inputs `query` (B, D) float32 and `items` (B, K) int64 and the output `values` (B, K, H) float32:
        of binary heads probabilities.
    """
    heads, table = student.heads, student.item_table().float()
    product, of_query, of_item = torch.stack([heads.weights[name] for name in heads.settings]).float().unbind(1)
    base = torch.stack([heads.get_buffer(f"{name}_base") for name in heads.settings])
    biases = torch.stack([heads.get_buffer(f"{name}_items") for name in heads.settings], 1)
    binary = np.array([about["least"] is not None for about in heads.settings.values()])
    weights = {
        "table": table.half().numpy(),
        "of_items": (base + biases + table @ of_item.T).numpy(),
        "product": product.T[None].numpy(),
        "of_query": of_query.T.numpy(),
        "binary": binary,
        "last": np.array([-1], np.int64),
        "middle": np.array([1], np.int64),
    }
    make = helper.make_node
    nodes = [
        make("Gather", ["table", "items"], ["half_vectors"]),
        make("Cast", ["half_vectors"], ["vectors"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["query", "last"], ["column"]),
        make("Mul", ["column", "product"], ["queries"]),
        make("MatMul", ["vectors", "queries"], ["products"]),
        make("Gather", ["of_items", "items"], ["of_item"]),
        make("MatMul", ["query", "of_query"], ["query_value"]),
        make("Unsqueeze", ["query_value", "middle"], ["of_the_query"]),
        make("Sum", ["products", "of_item", "of_the_query"], ["plain"]),
        make("Sigmoid", ["plain"], ["probability"]),
        make("Where", ["binary", "probability", "plain"], ["values"]),
    ]
    info, dim, count = helper.make_tensor_value_info, table.shape[1], len(binary)
    graph = helper.make_graph(
        nodes,
        "heads",
        [
            info("query", TensorProto.FLOAT, ["batch", dim]),
            info("items", TensorProto.INT64, ["batch", "items"]),
        ],
        [info("values", TensorProto.FLOAT, ["batch", "items", count])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "taildistill"
    onnx.checker.check_model(model)
    return model


def write_heads(
    folder: Path, student: Any, graphs: Mapping[str, Any], histories: np.ndarray
) -> tuple[dict[str, Any], list[Path]]:
    """Writes a student's heads beside its model files and compares them with torch.

    Args:
        folder: The bundle's.
        student: In evaluation mode.
        graphs: Its loaded variants.
        histories: On which both are asked (Q, L), padded on the left with N.

    Returns:
        The entry `heads` of bundle.json and the files, {} and [] for a student that has none.

    Raises:
        UserError: The values differ from torch's.
    """
    if getattr(student, "heads", None) is None:
        return {}, []
    path = folder / HEADS
    write_model(head_graph(student), path)
    names = list(student.heads.settings)
    loaded = HeadGraph(path.read_bytes(), names)
    errors = compared(student, graphs, loaded, histories)
    for variant, found in errors.items():
        for name, error in found.items():
            if not error <= MOST_ERROR[variant in FLOAT32]:
                raise UserError(
                    f"The head '{name}' behind the file '{variant}' is {error:.2g} standard deviations from torch on "
                    f"average; {MOST_ERROR[variant in FLOAT32]:g} are allowed. Leave the variant out of "
                    "export.variants."
                )
    about = {"file": HEADS, "names": names, "users": "level of an average user", "error": errors}
    return about | {"least": {name: each["least"] for name, each in student.heads.settings.items()}}, [path]


@torch.no_grad()
def compared(
    student: Any, graphs: Mapping[str, Any], heads: HeadGraph, histories: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean |file - torch| of each head in standard deviations of torch's values, by variant and head.

    Some items each are asked for, drawn at random, without what is known of users.
    """
    items = np.random.default_rng(0).integers(student.n_items, size=(len(histories), ITEMS_EACH))
    query = student.encode(torch.from_numpy(histories)).repeat_interleave(ITEMS_EACH, 0)
    chosen = torch.from_numpy(items.ravel())
    vectors, nobody = embedding(chosen, student.item_table()), torch.full_like(chosen, -1)
    found: dict[str, dict[str, float]] = {variant: {} for variant in graphs}
    for variant, graph in graphs.items():
        values = heads.values(graph.query(histories), items)
        for number, (name, about) in enumerate(student.heads.settings.items()):
            wanted = student.heads(name, query, vectors, chosen, nobody)
            wanted = (wanted if about["least"] is None else wanted.sigmoid()).numpy()
            error = float(np.abs(values[..., number].ravel() - wanted).mean())
            found[variant][name] = error / max(float(wanted.std()), 1e-6)
    return found
