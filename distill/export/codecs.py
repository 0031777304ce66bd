"""How a matrix may be stored: each codec gives smaller tensors and the ONNX nodes that read them.

A codec takes a name, a float matrix (R, C) and, where known, the moments of the vectors that its rows are multiplied
with. Everything uses standard operators only, so that any ONNX runtime reads the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto, helper

from distill.export.integer import integer_scores, names_of_int8
from distill.export.rounding import Moments, round_rows, spread, steps_of

INT8_LIMIT, INT4_LIMIT = 127, 7  # -128 and -8 are left out, so that the codes are symmetric
INT4_GROUP = 32  # columns that share a scale
KEPT = 0.5  # pruning: share of the entries that stay
make = helper.make_node
Nodes = list[NodeProto]
Head = tuple[Nodes, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Stored:
    """A matrix in its stored form.

    Attributes:
        name: Name of the float matrix (R, C) that `whole` makes.
        value: What the stored form stands for, float32 (R, C).
        tensors: What the file holds.
        whole: Nodes that make the whole matrix; of constants alone, so that the runtime evaluates them while loading.
        looked_up: (names of indices and result) -> nodes that read some rows.
        remade: Nodes that must stand before `looked_up`, where rows can't be read one by one.
        scored: What `scores` gives, where there is a better way than one product with the whole matrix.
    """

    name: str
    value: np.ndarray
    tensors: Mapping[str, np.ndarray]
    whole: Nodes
    looked_up: Callable[[str, str], Nodes]
    scored: Callable[[str, str], Head] | None = None
    remade: Nodes = field(default_factory=list)

    def scores(self, query: str, bias: str) -> Head:
        """Nodes from the query (B, C) and the biases (R,) to `all_scores` (B, R), and tensors that only they need."""
        if self.scored is not None:
            return self.scored(query, bias)
        return [*self.whole, make("Gemm", [query, self.name, bias], ["all_scores"], transB=1)], {}


Codec = Callable[[str, np.ndarray, Moments | None], Stored]


def float32(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """The matrix as it is."""
    return Stored(name, matrix, {name: matrix}, [], lambda items, result: [make("Gather", [name, items], [result])])


def float16(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """Half precision in the file, float32 in memory: on a CPU half precision saves bytes and no time."""
    small = f"{name}.half"
    codes = np.clip(matrix, -65504, 65504).astype(np.float16)

    def looked_up(items: str, result: str) -> Nodes:
        return [make("Gather", [small, items], [f"{result}.half"]), _real(f"{result}.half", result)]

    return Stored(name, codes.astype(np.float32), {small: codes}, [_real(small, name)], looked_up)


def int8(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """Row-wise int8 with one scale a row: |x - scale * q| <= scale / 2 where nothing is compensated.

    One scale for a whole table would round items with short vectors to zero, and those are often the tail.
    """
    steps = steps_of(matrix, INT8_LIMIT)
    codes = round_rows(matrix, spread(steps, matrix.shape[1]), INT8_LIMIT, moments)
    code_name, scale_name = names_of_int8(name)

    def looked_up(items: str, result: str) -> Nodes:
        return [
            make("Gather", [code_name, items], [f"{result}.int8"]),
            _real(f"{result}.int8", f"{result}.real"),
            make("Gather", [scale_name, items], [f"{result}.step"]),
            _real(f"{result}.step", f"{result}.scale"),
            make("Mul", [f"{result}.real", f"{result}.scale"], [result]),
        ]

    whole = [
        _real(code_name, f"{name}.real"),
        _real(scale_name, f"{name}.column"),
        make("Mul", [f"{name}.real", f"{name}.column"], [name]),
    ]
    value = codes * spread(steps, matrix.shape[1])
    tensors = {code_name: codes, scale_name: steps}
    return Stored(name, value, tensors, whole, looked_up, lambda query, bias: integer_scores(name, query, bias))


def int4(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """Two codes a byte and one scale for each row and group of columns; column c shares a byte with column c + C / 2.

    Matrices with an odd number of columns stay int8. Rows are unpacked by operators of opset 18 rather than by ONNX's
    own int4 type, which browsers' runtimes don't all read.
    """
    columns = matrix.shape[1]
    if columns % 2:
        return int8(name, matrix, moments)
    group = next((g for g in range(min(INT4_GROUP, columns), 15, -1) if columns % g == 0), columns)
    steps = steps_of(matrix, INT4_LIMIT, group, moments)
    codes = round_rows(matrix, spread(steps, columns), INT4_LIMIT, moments)
    shifted = (codes + 8).astype(np.uint8)
    byte, scale = f"{name}.int4", f"{name}.scale"
    tensors = {
        byte: shifted[:, : columns // 2] | (shifted[:, columns // 2 :] << 4),
        scale: steps,
        f"{name}.fifteen": np.array(15, np.uint8),
        f"{name}.four": np.array(4, np.uint8),
        f"{name}.eight": np.array(8, np.float32),
        f"{name}.groups": np.array([0, columns // group, group], np.int64),
        f"{name}.last": np.array([-1], np.int64),
        f"{name}.width": np.array([columns], np.int64),
        f"{name}.flat": np.array([0, columns], np.int64),
    }

    def unpacked(byte: str, scale: str, result: str) -> Nodes:  # (M, C / 2) and (M, G) to (M, C)
        r = f"{result}.nibble."
        return [
            make("BitwiseAnd", [byte, f"{name}.fifteen"], [r + "low"]),
            make("BitShift", [byte, f"{name}.four"], [r + "high"], direction="RIGHT"),
            make("Concat", [r + "low", r + "high"], [r + "both"], axis=1),
            _real(r + "both", r + "positive"),
            make("Sub", [r + "positive", f"{name}.eight"], [r + "codes"]),
            make("Reshape", [r + "codes", f"{name}.groups"], [r + "grouped"]),
            _real(scale, r + "scales"),
            make("Unsqueeze", [r + "scales", f"{name}.last"], [r + "column"]),
            make("Mul", [r + "grouped", r + "column"], [r + "scaled"]),
            make("Reshape", [r + "scaled", f"{name}.flat"], [result]),
        ]

    def looked_up(items: str, result: str) -> Nodes:
        r = f"{result}.rows."
        return [
            make("Reshape", [items, f"{name}.last"], [r + "items"]),
            make("Gather", [byte, r + "items"], [r + "bytes"]),
            make("Gather", [scale, r + "items"], [r + "scales"]),
            *unpacked(r + "bytes", r + "scales", r + "flat"),
            make("Shape", [items], [r + "batch"]),
            make("Concat", [r + "batch", f"{name}.width"], [r + "shape"], axis=0),
            make("Reshape", [r + "flat", r + "shape"], [result]),
        ]

    return Stored(name, codes * spread(steps, columns), tensors, unpacked(byte, scale, name), looked_up)


def pruned(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """The half of each row's entries that matter least to the scores left out: a bit an entry, and int8 for the rest.

    The entries that stay are rounded so that they make up for those that are gone.
    """
    columns = matrix.shape[1]
    weights = np.ones(columns) if moments is None else np.diag(moments.damped())
    stay = max(1, round(KEPT * columns))
    order = np.argsort(-np.square(matrix) * weights, axis=1, kind="stable")
    mask = np.zeros(matrix.shape, bool)
    np.put_along_axis(mask, order[:, :stay], True, axis=1)
    steps = steps_of(matrix, INT8_LIMIT)
    # An entry that is left out has a step so wide that no code but 0 comes near it.
    step = np.where(mask, spread(steps, columns), np.float32(1e9))
    codes = round_rows(matrix, step, INT8_LIMIT, moments)
    bits, kept, scale = f"{name}.bits", f"{name}.kept", f"{name}.scale"
    tensors = {
        bits: np.packbits(mask, axis=1, bitorder="little"),
        kept: codes[mask].reshape(len(matrix), stay),
        scale: steps,
        f"{name}.shifts": np.arange(8, dtype=np.uint8),
        f"{name}.one": np.array(1, np.uint8),
        f"{name}.end": np.array([columns], np.int64),
        f"{name}.start": np.array([0], np.int64),
        f"{name}.flat": np.array([len(matrix), -1], np.int64),
        f"{name}.axis": np.array([1], np.int64),
        f"{name}.last": np.array([-1], np.int64),
        f"{name}.axis_scalar": np.array(1, np.int64),
        f"{name}.first": np.array(1, np.int32),
        f"{name}.nothing": np.array(0, np.int32),
        f"{name}.nil": np.array(0, np.float32),
    }
    r = f"{name}.sparse."
    whole = [
        make("Unsqueeze", [bits, f"{name}.last"], [r + "bytes"]),
        make("BitShift", [r + "bytes", f"{name}.shifts"], [r + "shifted"], direction="RIGHT"),
        make("BitwiseAnd", [r + "shifted", f"{name}.one"], [r + "ones"]),
        make("Reshape", [r + "ones", f"{name}.flat"], [r + "all"]),
        make("Slice", [r + "all", f"{name}.start", f"{name}.end", f"{name}.axis"], [r + "bits"]),
        make("Cast", [r + "bits"], [r + "mask"], to=TensorProto.BOOL),
        make("Cast", [r + "bits"], [r + "counts"], to=TensorProto.INT32),
        make("CumSum", [r + "counts", f"{name}.axis_scalar"], [r + "rank"]),
        make("Sub", [r + "rank", f"{name}.first"], [r + "before"]),
        make("Max", [r + "before", f"{name}.nothing"], [r + "places"]),
        make("GatherElements", [kept, r + "places"], [r + "values"], axis=1),
        _real(r + "values", r + "real"),
        make("Where", [r + "mask", r + "real", f"{name}.nil"], [r + "codes"]),
        _real(scale, r + "column"),
        make("Mul", [r + "codes", r + "column"], [name]),
    ]
    value = codes * spread(steps, columns) * mask

    def looked_up(items: str, result: str) -> Nodes:
        return [make("Gather", [name, items], [result])]

    return Stored(name, value, tensors, whole, looked_up, remade=whole)


def _real(source: str, result: str) -> NodeProto:
    return make("Cast", [source], [result], to=TensorProto.FLOAT)
