"""Ragged rows of indices: what each user did, which categories each item has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lists:
    """Ragged rows of item indices (CSR without values).

    Attributes:
        indptr: Where each row starts, int64 (R + 1,).
        items: Item indices, int32 (indptr[-1],).
    """

    indptr: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.indptr[row] : self.indptr[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Items in each row, int64 (R,)."""
        return np.diff(self.indptr)

    def row_numbers(self) -> np.ndarray:
        """The row that each entry of `items` belongs to, int64 (indptr[-1],)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Lists:
        """The given rows, in that order."""
        lengths = self.lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - self.indptr[rows], lengths)
        return Lists(indptr, self.items[offsets])
