"""What recommends items without events and without training: chance, their category's popularity, their text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from distill.closed_form.interactions import decayed_sum
from distill.data.contexts import ContextBatch
from distill.data.dataset import Dataset
from distill.errors import UserError

Scorer = Callable[[ContextBatch], Tensor]


def at_random(n_items: int, seed: int) -> Scorer:
    """A new order of the catalogue for each user."""
    rng = np.random.default_rng(seed)
    return lambda batch: torch.from_numpy(rng.random((len(batch.row_id), n_items)))


def by_category(dataset: Dataset, decay: float, seed: int) -> Scorer:
    """score_i = mean over i's categories c of (weight of c in the decayed history) * popularity_i, ties by lot.

    popularity_i is the train events of i; an item without any has the mean of its category's items. Items without a
    category are one category of their own.
    """
    events = torch.from_numpy(dataset.popularity).float()
    membership = category_matrix(dataset)
    warm = (events > 0).float()
    mean = (membership.T @ events) / (membership.T @ warm).clamp_min(1)  # (C,)
    expected = torch.where(warm[:, None] > 0, events[:, None], mean[None])  # (N, C)
    weighted = (membership * expected).T
    lot = torch.from_numpy(1e-4 * np.random.default_rng(seed).random(dataset.n_items)).float()
    return lambda batch: decayed_sum(torch.from_numpy(batch.seen), membership, decay) @ weighted + lot


def category_matrix(dataset: Dataset) -> Tensor:
    """Shares of each item's categories (N, C + 1), rows that add to 1; the last column is for items without any."""
    lists = dataset.categories
    if lists is None:
        raise UserError("The data have no categories. Name a column of the items file with --categories.")
    width = int(lists.items.max(initial=-1)) + 1
    matrix = torch.zeros(dataset.n_items, width + 1)
    matrix[torch.from_numpy(lists.row_numbers()), torch.from_numpy(lists.items.astype(np.int64))] = 1.0
    matrix[:, width] = (matrix.sum(1) == 0).float()
    return matrix / matrix.sum(1, keepdim=True)


def neighbours(table: Tensor, decay: float) -> Scorer:
    """Decayed sums of cosines between the history's texts and each item's, of centred unit vectors (N, d)."""
    return lambda batch: decayed_sum(torch.from_numpy(batch.seen), table, decay) @ table.T


def raised(score: Scorer, cold: np.ndarray, shift: float) -> Scorer:
    """The scores with those of cold items raised by `shift` standard deviations of each row."""
    if not shift:
        return score
    chosen = torch.from_numpy(cold)

    def with_shift(batch: ContextBatch) -> Tensor:
        found = score(batch)
        return found + shift * found.std(1, keepdim=True) * chosen

    return with_shift
