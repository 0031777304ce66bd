"""Tables that share what they hold: product quantisation, and whole rows shared by k-means."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from distill.export.codecs import Head, Nodes, Stored
from distill.export.rounding import Moments

SUBSPACE, WORDS = 4, 256  # product quantisation: columns a code, codewords a subspace
SHARE = 4  # k-means: items a shared row
ITERATIONS, SAMPLE = 12, 20_000  # of k-means, and rows that it is fitted on
BLOCK = 2**22  # distances at once
make = helper.make_node


def product(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """Product quantisation: each 4 columns of a row become the number of one of 256 codewords (Jégou et al. 2011).

    The codewords are fitted where the queries look: columns are weighted by the queries' spread. The whole table is put
    together while the file is loaded.
    """
    columns = matrix.shape[1]
    width = next(w for w in (SUBSPACE, 2, 1) if columns % w == 0)
    parts, words = columns // width, min(WORDS, len(matrix))
    weights = np.ones(columns) if moments is None else np.diag(moments.damped())
    books, codes = [], []
    for part in range(parts):
        some = slice(part * width, (part + 1) * width)
        scale = np.sqrt(weights[some])
        centres, chosen = kmeans(matrix[:, some] * scale, words, seed=part)
        books.append(centres / scale)
        codes.append(chosen)
    book = np.concatenate(books).astype(np.float16)
    code = np.stack(codes, axis=1).astype(np.uint8)
    places = code.astype(np.int64) + np.arange(parts) * words
    tensors: dict[str, np.ndarray] = {
        f"{name}.words": book,
        f"{name}.code": code,
        f"{name}.offsets": np.arange(parts, dtype=np.int32) * words,
        f"{name}.last": np.array([-1], np.int64),
        f"{name}.width": np.array([columns], np.int64),
        f"{name}.flat": np.array([-1, columns], np.int64),
    }

    def decoded(code: str, result: str) -> Nodes:  # (M, P) to (M, C)
        r = f"{result}.pq."
        return [
            make("Cast", [code], [r + "code"], to=TensorProto.INT32),
            make("Add", [r + "code", f"{name}.offsets"], [r + "places"]),
            make("Gather", [f"{name}.words", r + "places"], [r + "words"]),
            make("Cast", [r + "words"], [r + "real"], to=TensorProto.FLOAT),
            make("Reshape", [r + "real", f"{name}.flat"], [result]),
        ]

    def looked_up(items: str, result: str) -> Nodes:
        r = f"{result}.rows."
        return [
            make("Gather", [f"{name}.code", items], [r + "code"]),
            *decoded(r + "code", r + "flat"),
            make("Shape", [items], [r + "batch"]),
            make("Concat", [r + "batch", f"{name}.width"], [r + "shape"], axis=0),
            make("Reshape", [r + "flat", r + "shape"], [result]),
        ]

    value = book.astype(np.float32)[places].reshape(matrix.shape)
    return Stored(name, value, tensors, decoded(f"{name}.code", name), looked_up)


def shared(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
    """One row for each 4 items on average, shared by k-means; items of a group differ by their biases alone.

    Only the shared rows are multiplied with the query: a fourth of the work of the whole table.
    """
    weights = np.ones(matrix.shape[1]) if moments is None else np.diag(moments.damped())
    scale = np.sqrt(weights)
    centres, chosen = kmeans(matrix * scale, max(1, len(matrix) // SHARE), seed=0)
    rows = (centres / scale).astype(np.float16)
    owner = chosen.astype(np.uint16 if len(rows) <= 2**16 else np.int32)
    tensors = {f"{name}.rows": rows, f"{name}.owner": owner}
    real, index = f"{name}.real_rows", f"{name}.owners"
    remade = [
        make("Cast", [f"{name}.rows"], [real], to=TensorProto.FLOAT),
        make("Cast", [f"{name}.owner"], [index], to=TensorProto.INT32),
    ]

    def looked_up(items: str, result: str) -> Nodes:
        r = f"{result}.shared."
        return [
            make("Gather", [f"{name}.owner", items], [r + "owner"]),
            make("Cast", [r + "owner"], [r + "places"], to=TensorProto.INT32),
            make("Gather", [f"{name}.rows", r + "places"], [r + "half"]),
            make("Cast", [r + "half"], [result], to=TensorProto.FLOAT),
        ]

    def scored(query: str, bias: str) -> Head:
        nodes = [
            *remade,
            make("Gemm", [query, real], [f"{name}.row_scores"], transB=1),
            make("Gather", [f"{name}.row_scores", index], [f"{name}.item_scores"], axis=1),
            make("Add", [f"{name}.item_scores", bias], ["all_scores"]),
        ]
        return nodes, {}

    whole = [*remade, make("Gather", [real, index], [name])]
    return Stored(name, rows.astype(np.float32)[chosen], tensors, whole, looked_up, scored)


def kmeans(points: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from a random start; a cluster that runs empty takes the point farthest from its own centre.

    Args:
        points: (R, C).
        clusters: At most R.
        seed: Of the start and of the sample that it is fitted on.

    Returns:
        Centres float32 (clusters, C), and the nearest centre of each point int64 (R,).
    """
    random = np.random.default_rng(seed)
    points = np.asarray(points, np.float32)
    most = max(SAMPLE, 8 * clusters)
    some = points if len(points) <= most else points[random.choice(len(points), most, replace=False)]
    centres = some[random.choice(len(some), clusters, replace=False)]
    for _ in range(ITERATIONS):
        chosen, distance = _nearest(some, centres)
        counts = np.bincount(chosen, minlength=clusters)
        sums = np.stack([np.bincount(chosen, some[:, c], clusters) for c in range(some.shape[1])], axis=1)
        centres = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        centres[empty] = some[np.argsort(-distance, kind="stable")[: len(empty)]]
    return centres, _nearest(points, centres)[0]


def _nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of, and squared distance to, the nearest centre of each point."""
    lengths = np.square(centres).sum(axis=1)
    chosen, distance = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    step = max(1, BLOCK // len(centres))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        gap = lengths - 2 * block @ centres.T  # the point's own length is the same for all centres
        chosen[start : start + step] = gap.argmin(axis=1)
        distance[start : start + step] = gap.min(axis=1) + np.square(block).sum(axis=1)
    return chosen, distance
