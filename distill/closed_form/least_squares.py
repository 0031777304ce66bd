"""Alternating least squares for implicit feedback: half steps, each row's ridge regression solved exactly."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

GATHERED = 2**23  # floats of gathered rows held at once while normal equations are built: 32 MB


def factorise(
    users: sparse.csr_matrix, dim: int, unobserved: float, l2: float, frequency: float, sweeps: int, seed: int
) -> Tensor:
    """Item vectors (N, D) that minimise the loss of `solve_rows` after some alternations between users and items.

    Time a sweep 2 E D^2 + (U + N) D^3, memory that of the vectors.

    Args:
        users: Interactions (U, N): 1, or how much more than an unobserved pair each weighs.
        dim: D.
        unobserved, l2, frequency: As in `solve_rows`.
        sweeps: Alternations.
        seed: Of the start.
    """
    items = users.T.tocsr()
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(items.shape[0], dim, generator=generator) * 0.1 / dim**0.5
    for _ in range(sweeps):
        solved = solve_rows(users, table, unobserved, l2, frequency)
        table = solve_rows(items, solved, unobserved, l2, frequency)
    return table


def solve_rows(matrix: sparse.csr_matrix, other: Tensor, unobserved: float, l2: float, frequency: float) -> Tensor:
    """One half step: the vectors (R, D) that minimise the loss with the other side's (C, D) held.

    Rows are taken in the order of their lengths, so that the rectangles they are padded to waste little.

    Args:
        matrix: Interactions (R, C) of the side that is solved; entries are weights, 1 where events have none.
        other: The other side's vectors.
        unobserved: a0, the weight of every pair; an observed pair weighs its entry more.
        l2: Ridge strength.
        frequency: nu, the exponent of the regularisation by frequency.

    References:
        Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets", eq. 4. Rendle, Krichene,
        Zhang & Koren 2022, "Revisiting the performance of iALS on item recommendation benchmarks", eq. 3 to 5.
    """
    gram = unobserved * other.T @ other
    lengths = np.diff(matrix.indptr)
    order = np.argsort(lengths, kind="stable")
    solved = torch.empty(matrix.shape[0], other.shape[1])
    weight = torch.from_numpy(np.asarray(matrix.sum(1), np.float32)[:, 0])
    ridge = l2 * (weight + unobserved * matrix.shape[1]) ** frequency
    for rows in _blocks(order, lengths, GATHERED // other.shape[1]):
        width = max(1, int(lengths[rows].max()))
        places = matrix.indptr[rows][:, None] + np.arange(width)
        inside = np.arange(width) < lengths[rows][:, None]
        index = np.where(inside, matrix.indices[np.where(inside, places, 0)] if matrix.nnz else 0, len(other))
        values = matrix.data[np.where(inside, places, 0)] if matrix.nnz else 0.0
        weights = torch.from_numpy(np.where(inside, values, 0.0).astype(np.float32))
        solved[rows] = solve(other, gram, torch.from_numpy(index.astype(np.int64)), weights, ridge[rows])
    return solved


def solve(other: Tensor, gram: Tensor, index: Tensor, weights: Tensor, ridge: Tensor) -> Tensor:
    """(gram + sum_j w_j v_j v_j' + ridge I)^-1 sum_j w_j v_j for rows of indices (R, L), padding len(other) or more."""
    rows = torch.nn.functional.embedding(torch.where(index < len(other), index, 0), other)  # (R, L, D)
    weighted = rows * weights[:, :, None]
    normal = gram + weighted.transpose(1, 2) @ rows
    normal.diagonal(dim1=1, dim2=2).add_(ridge[:, None].clamp_min(1e-8))
    factor = torch.linalg.cholesky(normal)
    return torch.cholesky_solve(weighted.sum(1)[:, :, None], factor)[:, :, 0]


def _blocks(order: np.ndarray, lengths: np.ndarray, most: int) -> list[np.ndarray]:
    """`order` cut where rows padded to the longest of a block would hold more than `most` entries."""
    blocks, first = [], 0
    while first < len(order):
        size = 1
        while first + size < len(order):
            grown = min(2 * size, len(order) - first)
            if max(1, lengths[order[first + grown - 1]]) * grown > most:
                break
            size = grown
        blocks.append(order[first : first + size])
        first += size
    return blocks
