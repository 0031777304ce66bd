"""Popularity strata: groups of items with about the same number of train interactions in each."""

from __future__ import annotations

import numpy as np


def popularity_strata(popularity: np.ndarray, groups: int) -> np.ndarray:
    """Cuts items into groups of equal interaction mass, most popular first.

    Args:
        popularity: Train interactions of each item (N,).
        groups: Number of groups G.

    Returns:
        Group of each item, int64 (N,); 0 holds the most popular. Items without interactions are in the last group.

    Reference:
        Chen et al. 2023, "Unbiased Knowledge Distillation for Recommendation", section 4.1.
    """
    order = np.argsort(-popularity, kind="stable")
    before = np.concatenate([[0], np.cumsum(popularity[order])])[:-1]
    total = max(1, int(popularity.sum()))
    group = np.minimum(before * groups // total, groups - 1).astype(np.int64)
    group[popularity[order] == 0] = groups - 1
    out = np.empty(len(popularity), np.int64)
    out[order] = group
    return out
