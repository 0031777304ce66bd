"""Low rank: a table as a narrower one times a small matrix, which moves to the query's side."""

from __future__ import annotations

import numpy as np
from onnx import helper

from distill.export.codecs import Codec, Head, Nodes, Stored
from distill.export.rounding import Moments

make = helper.make_node


def factored(codec: Codec, rank: int) -> Codec:
    """A codec for the best factors of a matrix, x ~ a B with a (R, r) stored by another codec and B (r, C) as it is.

    The scores u . x become (B u) . a, so the query is projected once and the table that is scanned is narrower.
    """

    def store(name: str, matrix: np.ndarray, moments: Moments | None = None) -> Stored:
        if rank >= matrix.shape[1]:
            return codec(name, matrix, moments)
        left, basis = factors(matrix, rank, moments)
        inner = codec(f"{name}.left", left, None if moments is None else moments.projected(basis))
        basis_name = f"{name}.basis"

        def looked_up(items: str, result: str) -> Nodes:
            narrow = f"{result}.narrow"
            return [*inner.looked_up(items, narrow), make("MatMul", [narrow, basis_name], [result])]

        def scored(query: str, bias: str) -> Head:
            narrow = f"{name}.query"
            nodes, tensors = inner.scores(narrow, bias)
            return [make("Gemm", [query, basis_name], [narrow], transB=1), *nodes], tensors

        whole = [*inner.whole, make("MatMul", [inner.name, basis_name], [name])]
        tensors = {**inner.tensors, basis_name: basis}
        return Stored(name, inner.value @ basis, tensors, whole, looked_up, scored, inner.remade)

    return store


def factors(matrix: np.ndarray, rank: int, moments: Moments | None) -> tuple[np.ndarray, np.ndarray]:
    """The factors a (R, r) and B (r, C) with the least mean squared error of the scores, float32.

    With moments the error is E[(u . (x - a B))^2] over queries u around their mean: a singular value decomposition of
    the matrix times the root of the covariance. Without, it is that of the entries.
    """
    columns = matrix.shape[1]
    values, vectors = (np.ones(columns), np.eye(columns)) if moments is None else np.linalg.eigh(moments.damped())
    root = vectors * np.sqrt(values) @ vectors.T
    inverse = vectors / np.sqrt(values) @ vectors.T
    seen = matrix.astype(np.float64) @ root
    _, axes = np.linalg.eigh(seen.T @ seen)
    best = axes[:, ::-1][:, :rank]  # (C, r), the largest last in eigh
    left, basis = seen @ best, best.T @ inverse
    size = np.linalg.norm(basis, axis=1)  # rows of B of length one, so that the columns of a keep a common measure
    return (left * size).astype(np.float32), (basis / size[:, None]).astype(np.float32)
