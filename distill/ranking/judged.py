"""Ranked lists compared with the truth once; every metric reads from here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distill.ranking.cases import Cases, contains


def discounts(k: int) -> np.ndarray:
    """1 / log2(rank + 1) for the ranks 1..k, (k,)."""
    return 1.0 / np.log2(np.arange(2, k + 2))


@dataclass(frozen=True)
class Judged:
    """Lists of U users with what they hit.

    Attributes:
        ranked: Item indices, int (U, K), best first, -1 behind the end of a shorter list.
        cases: The evaluated users.
        tail: Which items are tail, bool (N,).
    """

    ranked: np.ndarray
    cases: Cases
    tail: np.ndarray

    @cached_property
    def listed(self) -> np.ndarray:
        """Which places hold an item, bool (U, K)."""
        return self.ranked >= 0

    @cached_property
    def items(self) -> np.ndarray:
        """`ranked` with 0 in free places, so that it can index; int64 (U, K)."""
        return np.where(self.listed, self.ranked, 0).astype(np.int64)

    @cached_property
    def keys(self) -> np.ndarray:
        """row * N + item of each place, -1 in free places; int64 (U, K)."""
        rows = np.arange(len(self.ranked), dtype=np.int64)[:, None]
        return np.where(self.listed, rows * self.cases.n_items + self.items, -1)

    @cached_property
    def hits(self) -> np.ndarray:
        """Which places hold a relevant item, bool (U, K)."""
        return contains(self.cases.truth_keys, self.keys)

    @cached_property
    def relevant(self) -> np.ndarray:
        """|R_u|, int64 (U,)."""
        return self.cases.truth.lengths

    @cached_property
    def in_tail(self) -> np.ndarray:
        """Which places hold a tail item, bool (U, K)."""
        return self.tail[self.items] & self.listed

    @cached_property
    def tail_hits(self) -> np.ndarray:
        """Which places hold a relevant tail item, bool (U, K)."""
        return self.hits & self.in_tail

    @cached_property
    def tail_relevant(self) -> np.ndarray:
        """|R_u and tail|, int64 (U,)."""
        truth = self.cases.truth
        return np.bincount(truth.row_numbers(), weights=self.tail[truth.items], minlength=len(truth)).astype(np.int64)

    def exposures(self, k: int, weights: np.ndarray | None = None) -> np.ndarray:
        """How many of the lists, cut at k, hold each item; float64 (N,).

        Args:
            k: Cutoff.
            weights: How often each user counts, (U,); 1 by default.
        """
        listed = self.listed[:, :k]
        items = self.items[:, :k][listed]
        each = None if weights is None else np.repeat(weights, np.count_nonzero(listed, axis=1))
        return np.bincount(items, weights=each, minlength=self.cases.n_items).astype(np.float64)
