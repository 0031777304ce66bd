"""The files of an exact scan: an int8 graph that proposes groups of items, error bounds, and the float32 table.

Every row x is stored as x' = scale * code. For a query q, rounded to q' = step * code in the same way, the score
q.x differs from the q'.x' that the graph computes by (Cauchy-Schwarz)

    |q.x - q'.x'| <= ||q|| ||x - x'|| + ||q - q'|| ||x'||

plus the rounding of float32 sums, which is bounded too. Items go into groups by their error, so that the R items of a
group share a margin that is tight for each. Which items have to be looked at in float32, and whether that was enough,
is decided by distill.serving.scan.

There are two layouts. Up to `SMALL` places the graph is the product alone, and numpy looks at all groups; place p is in
group p % G, so that maxima of groups are maxima of whole rows. Above, the graph ranks groups by the best of their items
and gives the first of them away; the places of a group follow each other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from distill.errors import UserError
from distill.export.bundle import write_array, write_model
from distill.serving.passes import UP
from distill.serving.scan_files import ALL_GROUPS, BEST_GROUPS, ENCODER, FILES, MARGINS

OPSET, IR_VERSION = 20, 10
BLOCKS = (16, 32, 64, 128, 256)  # widths of a scale that MatMulNBits knows
GROUPS = 64  # items in a group from a million items on: maxima and top groups then cost about the same
SMALL = 2**16  # up to so many places to look at all groups costs less than to rank them
SMALLEST = 1e-30  # rows below are taken as zeros: products of denormal numbers keep no relative accuracy


def write_exact(folder: Path, table: np.ndarray, bias: np.ndarray, encoder: onnx.ModelProto | None = None) -> list[str]:
    """Writes what an exact scan needs: the index of any table, and beside it the user side of a student.

    Args:
        folder: An existing folder.
        table: Finite item vectors, float32 (N, D).
        bias: Item biases, float32 (N,); -inf for an item that is never listed.
        encoder: A graph with the input `history` (B, L) and the output `query` (B, D), or None for a bare index.

    Returns:
        The names of the files, the encoder's last.

    Raises:
        UserError: The shapes don't fit, or a weight isn't finite.
    """
    table, bias = _checked(table, bias)
    listed = np.flatnonzero(np.isfinite(bias))
    size = group_size(len(listed))
    errors, _ = row_errors(table[listed])
    listed = listed[np.argsort(-errors, kind="stable")]
    # One empty place at least: that is where padding of the list of hidden items points at.
    places = -(-(len(listed) + 1) // size) * size
    items = np.full(places, len(table), np.int64)
    items[: len(listed)] = listed
    rows = np.zeros((places, table.shape[1]), np.float32)
    rows[: len(listed)] = table[listed]
    offsets = np.zeros(places, np.float32)
    offsets[: len(listed)] = bias[listed]
    names = list(FILES.values())
    if places <= SMALL:
        write_array(group_margins(rows, offsets, size), folder / MARGINS)
        names.append(MARGINS)
        rows, offsets, items = (_interleaved(values, size) for values in (rows, offsets, items))
        graph = product_model(rows, offsets, size)
    else:
        graph = grouped_model(rows, offsets, size)
    for name, values in (("table", rows), ("bias", offsets), ("items", items)):
        write_array(values, folder / FILES[name])
    write_model(graph, folder / FILES["scan"])
    if encoder is None:
        return names
    write_model(encoder, folder / ENCODER)
    return [*names, ENCODER]


def group_size(n_items: int) -> int:
    """R, a power of two near sqrt(N / 256), 8 to 64: as many groups to rank as items in the groups that are opened."""
    return min(GROUPS, max(8, 2 ** int(np.ceil(np.log2(max(1, n_items) / 256) / 2))))


def block_width(dim: int) -> int:
    """Columns under one scale: the whole row up to 256 dims, so that a row's codes lie together."""
    return next((width for width in BLOCKS if width >= dim), BLOCKS[-1])


def quantise_blocks(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounds each block of each row to int8.

    Args:
        rows: Finite floats (P, D).

    Returns:
        Codes uint8 (P, blocks, width) around 128, scales float32 (P, blocks), and the rows that they stand for,
        float64 (P, D).
    """
    n_rows, dim = rows.shape
    width = block_width(dim)
    blocks = -(-dim // width)
    padded = np.zeros((n_rows, blocks * width), np.float32)
    padded[:, :dim] = rows
    cubes = padded.reshape(n_rows, blocks, width)
    peaks = np.abs(cubes).max(axis=2)
    # A block of zeros has the scale 0, not 1: the kernel's sums around 128 cancel exactly only if nothing is added up.
    scales = np.where(peaks >= SMALLEST, peaks / np.float32(127), np.float32(0))
    codes = np.rint(cubes / np.where(scales > 0, scales, np.float32(np.inf))[..., None]).clip(-127, 127)
    stood_for = (codes.astype(np.float64) * scales[..., None]).reshape(n_rows, -1)[:, :dim]
    return (codes + 128).astype(np.uint8), scales, stood_for


def row_errors(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """||x - x'|| and ||x'|| of each row, float64 (P,) both."""
    errors, norms = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), 2**16):
        some = slice(start, start + 2**16)
        stood_for = quantise_blocks(rows[some])[2]
        errors[some] = np.linalg.norm(rows[some] - stood_for, axis=1)
        norms[some] = np.linalg.norm(stood_for, axis=1)
    return errors, norms


def group_margins(rows: np.ndarray, bias: np.ndarray, size: int) -> np.ndarray:
    """What a group's margin is made of, float32 (3, G): times (||q||, ||q - q'|| + rounding, 1) it is the margin.

    The rounding of the graph's float32 sums is proportional to ||q|| ||x'||, which the second factor takes in (see
    `distill.serving.scan.rounding`), and to the bias, which is the third row.
    """
    errors, norms = row_errors(rows)
    largest = [values.reshape(-1, size).max(axis=1) for values in (errors, norms, np.abs(bias).astype(np.float64))]
    margins = np.stack([largest[0] * UP, largest[1] * UP, largest[2] * 2.0**-20 + SMALLEST])
    return np.nextafter(margins.astype(np.float32), np.float32(np.inf))


def product_model(rows: np.ndarray, bias: np.ndarray, size: int) -> onnx.ModelProto:
    """The first pass of a small catalogue: `rounded` (B, D), the rounded query, to `scores` (B, P).

    Args:
        rows, bias, size: As in `grouped_model`.
    """
    node, weights = _product(rows, bias, "scores")
    inputs = [helper.make_tensor_value_info("rounded", TensorProto.FLOAT, ["batch", rows.shape[1]])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(rows)])]
    return _scan([node], inputs, outputs, weights, rows.shape[1], size, ALL_GROUPS)


def grouped_model(rows: np.ndarray, bias: np.ndarray, size: int) -> onnx.ModelProto:
    """The first pass of a large catalogue.

    Inputs: `rounded` (B, D), the rounded query; `spread` (B, 3), the factors of the margins; `hidden` (B, S) int64,
    places that are never listed; `groups` (1,) int64, how many are opened.
    Outputs, groups in the order of their upper bounds: `opened` (B, M) int64; `upper` (B, M), bounds on all their
    scores; `margin` (B, M); `scores` (B, M, R) of their items, each within its group's margin of the true score.

    Args:
        rows: Item vectors by place, float32 (P, D).
        bias: Biases by place, float32 (P,).
        size: R, items in a group; P is a multiple of it.
    """
    places, dim = rows.shape
    product, weights = _product(rows, bias, "all_scores")
    weights |= {
        "margins": group_margins(rows, bias, size),
        "never": np.array(-np.inf, np.float32),
        "rows_of_groups": np.array([-1, size], np.int64),
        "groups_of_batch": np.array([-1, places // size], np.int64),
        "all": np.array([-1, places // size, size], np.int64),
        "last": np.array([-1], np.int64),
        "axis_1": np.array([1], np.int64),
    }
    make = helper.make_node
    nodes = [
        product,
        make("Shape", ["hidden"], ["hidden_shape"]),
        make("Expand", ["never", "hidden_shape"], ["hidden_scores"]),
        # The masked scores are no output of the graph: then they take the place of the others, and nothing is copied.
        make("ScatterElements", ["all_scores", "hidden", "hidden_scores"], ["open_scores"], axis=1),
        # Maxima along the last axis of a matrix are the one shape of ReduceMax that is vectorised.
        make("Reshape", ["open_scores", "rows_of_groups"], ["grouped"]),
        make("ReduceMax", ["grouped", "axis_1"], ["best"], keepdims=0),
        make("Reshape", ["best", "groups_of_batch"], ["best_of_groups"]),
        make("MatMul", ["spread", "margins"], ["all_margins"]),
        make("Add", ["best_of_groups", "all_margins"], ["bounds"]),
        make("TopK", ["bounds", "groups"], ["upper", "opened"], axis=1),
        make("GatherElements", ["all_margins", "opened"], ["margin"], axis=1),
        make("Unsqueeze", ["opened", "last"], ["opened_rows"]),
        make("Reshape", ["open_scores", "all"], ["cube"]),
        make("GatherND", ["cube", "opened_rows"], ["scores"], batch_dims=1),
    ]
    info, real, whole = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        info("rounded", real, ["batch", dim]),
        info("spread", real, ["batch", 3]),
        info("hidden", whole, ["batch", "hidden"]),
        info("groups", whole, [1]),
    ]
    outputs = [
        info("opened", whole, ["batch", "groups"]),
        info("upper", real, ["batch", "groups"]),
        info("margin", real, ["batch", "groups"]),
        info("scores", real, ["batch", "groups", size]),
    ]
    return _scan(nodes, inputs, outputs, weights, dim, size, BEST_GROUPS)


def plain_model(table: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """The graph that a scan is compared with: all float32 scores and their top k.

    Inputs `query` (B, D) and `k` (1,); outputs `scores` (B, k) and `ids` (B, k).

    Args:
        table: Item vectors, float32 (N, D).
        bias: Item biases, float32 (N,).
    """
    info, real, whole = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["query", "items", "bias"], ["all_scores"], transB=1),
            helper.make_node("TopK", ["all_scores", "k"], ["scores", "ids"], axis=1),
        ],
        "plain",
        [info("query", real, ["batch", table.shape[1]]), info("k", whole, [1])],
        [info("scores", real, ["batch", "k"]), info("ids", whole, ["batch", "k"])],
        [numpy_helper.from_array(table, "items"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _checked(table: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table, bias = np.ascontiguousarray(table, np.float32), np.ascontiguousarray(bias, np.float32)
    if table.ndim != 2 or not table.size or bias.shape != (len(table),):
        raise UserError(
            f"An exact scan was asked for with a table of shape {table.shape} and biases of shape {bias.shape}; "
            "expected (N, D) and (N,), with N and D at least 1."
        )
    if not np.isfinite(table).all() or np.isnan(bias).any() or (bias == np.inf).any():
        raise UserError(
            "The item table or the biases hold NaN or infinite numbers (a bias may be -inf, for an item that is never "
            "listed), so no top k of theirs is exact. Train the student again, with a lower fit.learning_rate."
        )
    return table, bias


def _product(rows: np.ndarray, bias: np.ndarray, result: str) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """The node that gives int8 scores (B, P) of a `rounded` query (B, D), and its weights."""
    places, dim = rows.shape
    codes, scales, _ = quantise_blocks(rows)
    weights = {"codes": codes, "scales": scales}
    inputs = ["rounded", "codes", "scales"]
    if bias.any():  # the kernel is slower with a bias, so a table without any goes without
        inputs += ["", "", "bias"]
        weights["bias"] = bias
    # accuracy_level 4 lets the kernel multiply in int8; the query has been rounded so that it loses nothing by it.
    sizes = {"K": dim, "N": places, "bits": 8, "block_size": block_width(dim), "accuracy_level": 4}
    return helper.make_node("MatMulNBits", inputs, [result], domain="com.microsoft", **sizes), weights


def _scan(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
    dim: int,
    size: int,
    looks_at: str,
) -> onnx.ModelProto:
    """A checked model that says how it is laid out."""
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "scan", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    model.producer_name = "taildistill"
    about = {"dim": str(dim), "width": str(block_width(dim)), "group": str(size), "looks_at": looks_at}
    helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    return model


def _interleaved(values: np.ndarray, size: int) -> np.ndarray:
    """Puts the r-th member of group g, which was at g * size + r, to r * G + g."""
    return np.ascontiguousarray(values.reshape(-1, size, *values.shape[1:]).swapaxes(0, 1)).reshape(values.shape)
