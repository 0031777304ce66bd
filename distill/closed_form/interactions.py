"""Train interactions as a sparse matrix, and histories weighted by recency."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from distill.data.dataset import TRAIN, Dataset

NEGLIGIBLE = 1e-4  # history items whose weight falls below this are not looked at


def interaction_matrix(dataset: Dataset, weighted: bool = False) -> sparse.csr_matrix:
    """Train interactions as a CSR matrix (U, N), float32.

    Args:
        dataset: Only its train part is used.
        weighted: Entries are the events' weights where the data set has any (`data.weight`); else they are 1.
    """
    lists = dataset.lists(TRAIN, TRAIN)
    if weighted and dataset.weights is not None:
        values = dataset.weights[dataset.parts == TRAIN].astype(np.float32)
        return sparse.csr_matrix((values, lists.items, lists.indptr), shape=(len(lists), dataset.n_items))
    ones = np.ones(len(lists.items), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, lists.items, lists.indptr), shape=(len(lists), dataset.n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def decayed_sum(seen: Tensor, table: Tensor, decay: float) -> Tensor:
    """sum_j exp(-age_j / decay) table[item_j], age 0 for the latest item.

    Args:
        seen: Histories (B, L), right-aligned, padded with the number of items.
        table: Rows to sum (N, M).
        decay: Time constant in items; infinity weighs all alike.

    Returns:
        (B, M).
    """
    n_items = table.shape[0]
    seen = recent(seen, decay)
    weights = decay_weights(seen, n_items, decay)
    index = torch.where(seen < n_items, seen, 0)
    return functional.embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode="sum")


def recent(seen: Tensor, decay: float) -> Tensor:
    """The end of right-aligned histories (B, L), behind which no weight exp(-age / decay) is worth a look."""
    return seen[:, -max(1, int(np.ceil(-np.log(NEGLIGIBLE) * decay))) :] if np.isfinite(decay) else seen


def decay_weights(seen: Tensor, n_items: int, decay: float) -> Tensor:
    """exp(-age / decay) of each place of right-aligned histories (B, L), 0 for padding."""
    age = torch.arange(seen.shape[1] - 1, -1, -1, dtype=torch.float32)
    return torch.where(seen < n_items, torch.exp(-age / decay), 0.0)
