"""iALS: matrix factorisation by alternating least squares, new users solved from their histories."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from distill.data.contexts import ContextBatch
from teachers.closed_form import ClosedForm, decay_weights, interaction_matrix
from teachers.protocol import Inputs

GATHERED = 2**23  # floats of gathered rows held at once while normal equations are built: 32 MB


class ImplicitALS(ClosedForm):
    """Minimises sum_observed (u'v - 1)^2 + a0 sum_all (u'v)^2 + l2 (sum_u c_u^nu |u|^2 + sum_i c_i^nu |v|^2).

    c_u is the number of the user's items plus a0 N, and c_i the number of the item's users plus a0 U, so nu = 1
    regularises the frequent more, and nu = 0 all alike. Each half step solves one ridge regression a row exactly, so
    the loss never rises. There is no table of users: a context's vector solves the same equation from its history, the
    events weighted by recency, and so new users and new clicks need no training.

    References:
        Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets", eq. 4. Rendle, Krichene,
        Zhang & Koren 2022, "Revisiting the performance of iALS on item recommendation benchmarks", eq. 3 to 5 and
        section 4.2 (initial scale, regularisation by frequency). The recency weights are this project's.
    """

    def __init__(
        self,
        dim: int = 64,
        l2: float = 0.003,
        unobserved: float = 0.1,
        frequency: float = 1.0,
        sweeps: int = 10,
        decay: float = 10.0,
        floor: float = 0.003,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            dim: Width D of the vectors.
            l2: Ridge strength.
            unobserved: a0, the weight of every pair; an observed pair weighs 1 more.
            frequency: nu, the exponent of the regularisation by frequency.
            sweeps: Alternations between users and items.
            decay: Time constant of the recency weights in scoring, in items; infinity weighs all alike.
            floor: Added before the logarithm, so that items without evidence differ from impossible ones.
            seed: Added to the experiment's seed.
        """
        self.dim, self.l2, self.unobserved, self.frequency = dim, l2, unobserved, frequency
        self.sweeps, self.decay, self.floor, self.seed = sweeps, decay, floor, seed

    def prepare(self, inputs: Inputs) -> None:
        """Alternates: time a sweep 2 E D^2 + (U + N) D^3, memory that of the vectors."""
        users = interaction_matrix(inputs.dataset)
        items = users.T.tocsr()
        generator = torch.Generator().manual_seed(inputs.seed + self.seed)
        self.table = torch.randn(items.shape[0], self.dim, generator=generator) * 0.1 / self.dim**0.5
        for _ in range(self.sweeps):
            solved = solve_rows(users, self.table, self.unobserved, self.l2, self.frequency)
            self.table = solve_rows(items, solved, self.unobserved, self.l2, self.frequency)

    def score(self, batch: ContextBatch) -> Tensor:
        """log(max(s, 0) + floor) with s = V u (B, N), u the solution for the history."""
        seen = torch.from_numpy(batch.seen)
        weights = decay_weights(seen, len(self.table), self.decay)
        gram = self.unobserved * self.table.T @ self.table
        step = max(1, GATHERED // (seen.shape[1] * self.dim))
        users = [
            _solve(self.table, gram, s, w, self._ridge(w))
            for s, w in zip(seen.split(step), weights.split(step), strict=True)
        ]
        return torch.log((torch.cat(users) @ self.table.T).clamp_min(0) + self.floor)

    def item_vectors(self) -> Tensor | None:
        """The items' vectors (N, D)."""
        return self.table

    def _ridge(self, weights: Tensor) -> Tensor:
        count = weights.sum(1) + self.unobserved * len(self.table)
        return self.l2 * count**self.frequency


def solve_rows(matrix: sparse.csr_matrix, other: Tensor, unobserved: float, l2: float, frequency: float) -> Tensor:
    """One half step: the vectors (R, D) that minimise the loss with the other side's (C, D) held.

    Rows are taken in the order of their lengths, so that the rectangles they are padded to waste little.

    Args:
        matrix: Binary interactions (R, C) of the side that is solved.
        other: The other side's vectors.
        unobserved: a0.
        l2: Ridge strength.
        frequency: nu.
    """
    gram = unobserved * other.T @ other
    lengths = np.diff(matrix.indptr)
    order = np.argsort(lengths, kind="stable")
    solved = torch.empty(matrix.shape[0], other.shape[1])
    ridge = l2 * (torch.from_numpy(lengths).float() + unobserved * matrix.shape[1]) ** frequency
    for rows in _blocks(order, lengths, GATHERED // other.shape[1]):
        width = max(1, int(lengths[rows].max()))
        places = matrix.indptr[rows][:, None] + np.arange(width)
        inside = np.arange(width) < lengths[rows][:, None]
        index = np.where(inside, matrix.indices[np.where(inside, places, 0)] if matrix.nnz else 0, len(other))
        weights = torch.from_numpy(inside.astype(np.float32))
        solved[rows] = _solve(other, gram, torch.from_numpy(index.astype(np.int64)), weights, ridge[rows])
    return solved


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


def _solve(other: Tensor, gram: Tensor, index: Tensor, weights: Tensor, ridge: Tensor) -> Tensor:
    """(gram + sum_j w_j v_j v_j' + ridge I)^-1 sum_j w_j v_j for rows of indices (R, L), padding len(other) or more."""
    rows = torch.nn.functional.embedding(torch.where(index < len(other), index, 0), other)  # (R, L, D)
    weighted = rows * weights[:, :, None]
    normal = gram + weighted.transpose(1, 2) @ rows
    normal.diagonal(dim1=1, dim2=2).add_(ridge[:, None].clamp_min(1e-8))
    factor = torch.linalg.cholesky(normal)
    return torch.cholesky_solve(weighted.sum(1)[:, :, None], factor)[:, :, 0]
