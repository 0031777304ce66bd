"""Item-item matrices in closed form, whole or as lists of the strongest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from distill.errors import UserError

MAX_EASE_ITEMS = 30_000
DENSE = 2**24  # entries of dense rows held at once: 64 MB


def ease_table(matrix: sparse.csr_matrix, l2: float) -> Tensor:
    """B = I - P / diag(P), P = (X'X + l2 I)^-1, zero diagonal, (N, N): memory 4 N^2 bytes twice, time N^3.

    Args:
        matrix: Interactions X (U, N).
        l2: Ridge strength.

    Raises:
        UserError: The catalogue is too large.

    References:
        Steck 2019, "Embarrassingly shallow autoencoders for sparse data", eq. 8.
    """
    n_items = matrix.shape[1]
    if n_items > MAX_EASE_ITEMS:
        raise UserError(
            f"ease: the catalogue has {n_items:,} items and EASE inverts a dense matrix of that side (limit "
            f"{MAX_EASE_ITEMS:,}). Use 'itemknn' instead, or filter items with data.min_item_events."
        )
    gram = torch.from_numpy((matrix.T @ matrix).toarray())
    gram.diagonal().add_(l2)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    table = -inverse / inverse.diagonal()
    table.fill_diagonal_(0.0)
    return table


def similarities(matrix: sparse.csr_matrix, alpha: float, shrink: float) -> sparse.csr_matrix:
    """s_ij = c_ij / ((n_i n_j)^alpha + shrink), c the co-occurrence, n the popularity, (N, N) with a zero diagonal.

    Args:
        matrix: Interactions (U, N); with weights c_ij sums their products and n_i their squares.
        alpha: Exponent of the popularity normalisation; 0.5 is cosine.
        shrink: Added to the denominator, against chance co-occurrence.

    References:
        Deshpande & Karypis 2004, "Item-based top-N recommendation algorithms", section 4.
    """
    together = (matrix.T @ matrix).tocoo()
    count = np.asarray(matrix.multiply(matrix).sum(0)).ravel()
    denominator = (count[together.row] * count[together.col]) ** alpha + shrink
    values = np.where(together.row == together.col, 0.0, together.data / denominator).astype(np.float32)
    return sparse.csr_matrix((values, (together.row, together.col)), shape=together.shape)


def strongest(matrix: Tensor | sparse.csr_matrix, count: int) -> tuple[Tensor, Tensor]:
    """Of each row the `count` entries of largest size, in blocks of dense rows.

    Args:
        matrix: (R, N).
        count: M, at most N.

    Returns:
        Columns int64 (R, M), N where a row has fewer entries that aren't zero, and values float32 (R, M), 0 there.
        Equal sizes may come in any order, but always in the same one.
    """
    rows, columns = matrix.shape
    step = max(1, DENSE // max(1, columns))
    found = []
    for first in range(0, rows, step):
        block = matrix[first : first + step]
        dense = block if isinstance(block, Tensor) else torch.from_numpy(block.toarray())
        index = dense.abs().topk(min(count, columns), dim=1).indices
        found.append((index, dense.gather(1, index)))
    index, values = torch.cat([i for i, _ in found]), torch.cat([v for _, v in found])
    return torch.where(values != 0, index, columns), values
