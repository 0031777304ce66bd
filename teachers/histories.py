"""The histories before the pairs of a text tower: which items they hold, and which of their texts a step encodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.data.contexts import Contexts, train_contexts
from distill.data.dataset import Dataset
from distill.job import Batch

MASKED = 512  # latest items of a history that are kept from being its own negatives


@dataclass(frozen=True)
class Histories:
    """What a user had up to the left item of each pair of direct neighbours; the right item is the next one.

    Attributes:
        contexts: One a train event: the user's items up to it.
        rows: The context of each pair, int64 (P,).
        near: So many pairs, the first ones, are direct neighbours.
        length: Latest items that are pooled, L.
        texts: Most texts beside those of the pairs that a step encodes, as a multiple of its pairs.
        decay: Time constant, in items, of the pool.
        masked: Latest items that are no negatives, S.
    """

    contexts: Contexts
    rows: np.ndarray
    near: int
    length: int
    texts: float
    decay: float
    masked: int

    @classmethod
    def of(cls, dataset: Dataset, place: np.ndarray, near: int, length: int, texts: float, decay: float) -> Histories:
        """Of pairs in a data set's train part, whose left items stand in its train events at `place` (P,)."""
        contexts = train_contexts(dataset)
        masked = min(MASKED, int(contexts.lengths.max(initial=1)))
        return cls(contexts, place, near, length, texts, decay, masked)

    def join(self, items: Tensor, numbers: np.ndarray) -> tuple[Tensor, Batch]:
        """Puts the older items of the histories behind the items of a batch.

        Where more of them are met than the step has room for, those with the largest weights in all its pools are kept
        and the others left out of the pools; with the weights falling by the age, that is mostly the oldest.

        Args:
            items: Item indices of the batch, each once, int64 (M,).
            numbers: Its pairs (B,).

        Returns:
            Item indices (M + O,), and the tensors `history`: rows of those, int64 (B, L), right-aligned, M + O in the
            place of padding and of what was left out; `seen`: item indices that are no negatives, int64 (B, S), padded
            with N; `follows`: 1 where the right item came next, 0 for a pair of items two apart, int64 (B,).
        """
        padding = self.contexts.n_items
        follows = numbers < self.near
        batch = self.contexts.batch(self.rows[numbers], self.length)
        history = _widened(batch.history, self.length, padding)
        history[~follows] = padding
        found, inverse = np.unique(history, return_inverse=True)
        weight = np.exp(-np.arange(self.length - 1, -1, -1) / self.decay)
        total = np.bincount(inverse.reshape(-1), np.broadcast_to(weight, history.shape).reshape(-1))
        older = np.flatnonzero(~np.isin(found, items.numpy()) & (found != padding))
        room = round(self.texts * len(numbers))
        older = np.sort(older[np.argsort(-total[older], kind="stable")[:room]])
        whole = np.concatenate([items.numpy(), found[older]])
        order = np.argsort(whole)
        place = order[np.searchsorted(whole, found, sorter=order).clip(max=len(whole) - 1)]
        rows = np.where(whole[place] == found, place, len(whole))[inverse.reshape(history.shape)]
        return torch.from_numpy(whole), {
            "history": torch.from_numpy(rows),
            "seen": torch.from_numpy(_widened(batch.seen[:, -self.masked :], self.masked, padding)),
            "follows": torch.from_numpy(follows.astype(np.int64)),
        }


def _widened(items: np.ndarray, width: int, padding: int) -> np.ndarray:
    """(B, W) with padding on the left up to `width`: processes exchange rows, which must be equally long."""
    return np.pad(items, ((0, 0), (width - items.shape[1], 0)), constant_values=padding)
