"""Items that look like an anchor to the model in training, though no user had both."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from distill.data.dataset import Lists

POOL = 4  # a batch draws from this many times as many candidates as it needs
BLOCK = 1024  # anchors whose cosines are held at once


def together(lists: Lists, n_items: int) -> sparse.csr_array:
    """Pairs of items that one user had both of, and each item with itself, (N, N)."""
    shape = (len(lists.indptr) - 1, n_items)
    had = sparse.csr_array((np.ones(len(lists.items), np.float32), lists.items, lists.indptr), shape=shape)
    return (had.T @ had + sparse.eye_array(n_items, format="csr")).tocsr()


def mine(vectors: Tensor, known: sparse.csr_array, count: int) -> Tensor:
    """The nearest items of each item that were never had together with it.

    Args:
        vectors: Unit vectors (N, d).
        known: Pairs that are no negatives, (N, N).
        count: How many to find; fewer exist in a small catalogue.

    Returns:
        Item indices, nearest first, int64 (N, min(count, N)). Where too few are left, the last ones found repeat items
        that were had together: they are the farthest from being negatives only in catalogues of a few items.
    """
    found = []
    for first in range(0, len(vectors), BLOCK):
        cosines = vectors[first : first + BLOCK] @ vectors.T
        block = known[first : first + BLOCK].tocoo()
        cosines[torch.from_numpy(block.row.astype(np.int64)), torch.from_numpy(block.col.astype(np.int64))] = -2.0
        found.append(cosines.topk(min(count, len(vectors)), dim=1).indices)
    return torch.cat(found)
