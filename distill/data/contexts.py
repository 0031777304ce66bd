"""Contexts: the rows that a teacher is asked about and a student learns from.

A context is a history prefix with a stable row id. Real contexts are prefixes of a user's train sequence; synthetic
ones (drops, crops, single items, roll-outs, appends, mixes, edited copies) and histories from outside (given) are rows
like any other, marked by kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import polars as pl

from distill.data.dataset import TRAIN, Dataset, Lists


class Kind(IntEnum):
    """Where a context comes from; only REAL rows carry a hard label."""

    REAL = 0
    DROP = 1
    CROP = 2
    SINGLE = 3
    ROLLOUT = 4
    APPEND = 5
    MIX = 6
    GIVEN = 7
    MASK = 8
    REORDER = 9
    SUBSTITUTE = 10


@dataclass(frozen=True)
class ContextBatch:
    """Some contexts as rectangular arrays. Histories are right-aligned: column L - 1 is the latest item.

    Attributes:
        row_id: Row ids, int64 (B,).
        user: User indices, int64 (B,); -1 where there is no user.
        history: The last L items, int64 (B, L), padded on the left with n_items.
        seen: All items of the history, int64 (B, S), padded on the left with n_items.
        target: Next item, int64 (B,); -1 where there is no label.
        kind: `Kind` of each row, uint8 (B,).
    """

    row_id: np.ndarray
    user: np.ndarray
    history: np.ndarray
    seen: np.ndarray
    target: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True)
class Contexts:
    """Many contexts over one flat array of items; context r has the history items[start[r]:stop[r]], oldest first.

    Attributes:
        n_items: Catalogue size; also the padding index.
        items: Flat item indices, int32 (M,); n_items in the place of a masked item.
        start, stop: Bounds of each history, int64 (R,).
        user: User index of each context, int32 (R,); -1 where there is none.
        target: Next item, int32 (R,); -1 where there is none.
        kind: `Kind` of each context, uint8 (R,).
    """

    n_items: int
    items: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    user: np.ndarray
    target: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> np.ndarray:
        """Items in each history, int64 (R,)."""
        return self.stop - self.start

    def take(self, rows: np.ndarray) -> Contexts:
        """Some of the contexts, in the order of `rows`: row ids (R,) or a mask over all."""
        columns = (self.start, self.stop, self.user, self.target, self.kind)
        return Contexts(self.n_items, self.items, *(column[rows] for column in columns))

    def batch(self, rows: np.ndarray, max_length: int) -> ContextBatch:
        """The given rows as a batch.

        Args:
            rows: Row ids, int (B,).
            max_length: Longest history kept, L = min(max_length, longest in the batch), at least 1.
        """
        rows = np.asarray(rows, dtype=np.int64)
        longest = max(int(self.lengths[rows].max(initial=1)), 1)
        seen = self._gather(rows, longest)
        return ContextBatch(
            row_id=rows,
            user=self.user[rows].astype(np.int64),
            history=np.ascontiguousarray(seen[:, -min(max_length, longest) :]),
            seen=seen,
            target=self.target[rows].astype(np.int64),
            kind=self.kind[rows],
        )

    def _gather(self, rows: np.ndarray, length: int) -> np.ndarray:
        index = self.stop[rows][:, None] - length + np.arange(length)
        inside = index >= self.start[rows][:, None]
        source = self.items if len(self.items) else np.zeros(1, np.int32)
        return np.where(inside, source[np.where(inside, index, 0)], self.n_items).astype(np.int64)

    def write(self, path: Path) -> None:
        """Writes two Parquet files: `path` (one row a context) and `path` with the suffix .items.parquet."""
        rows = {"start": self.start, "stop": self.stop, "user": self.user, "target": self.target, "kind": self.kind}
        pl.DataFrame(rows).write_parquet(path)
        pl.DataFrame({"item": self.items}).write_parquet(path.with_suffix(".items.parquet"))

    @classmethod
    def read(cls, path: Path, n_items: int) -> Contexts:
        """Reads what `write` wrote."""
        rows = pl.read_parquet(path)
        items = pl.read_parquet(path.with_suffix(".items.parquet"))["item"].to_numpy()
        return cls(n_items, items, **{c: rows[c].to_numpy() for c in ("start", "stop", "user", "target", "kind")})


def concatenate(parts: Sequence[Contexts]) -> Contexts:
    """All contexts of `parts` in order; row ids run on, so the rows of the first part keep theirs."""
    shifts = np.cumsum([0, *(len(p.items) for p in parts)])[:-1]
    return Contexts(
        n_items=parts[0].n_items,
        items=np.concatenate([p.items for p in parts]),
        start=np.concatenate([p.start + s for p, s in zip(parts, shifts, strict=True)]),
        stop=np.concatenate([p.stop + s for p, s in zip(parts, shifts, strict=True)]),
        user=np.concatenate([p.user for p in parts]),
        target=np.concatenate([p.target for p in parts]),
        kind=np.concatenate([p.kind for p in parts]),
    )


def from_lists(lists: Lists, n_items: int, kind: Kind, user: np.ndarray) -> Contexts:
    """One context a row of `lists`: the whole row is the history, without a label."""
    rows = len(lists)
    return Contexts(
        n_items,
        lists.items.astype(np.int32),
        lists.indptr[:-1].copy(),
        lists.indptr[1:].copy(),
        user.astype(np.int32),
        np.full(rows, -1, np.int32),
        np.full(rows, kind, np.uint8),
    )


def prefixes(lists: Lists, n_items: int, kind: Kind, user: np.ndarray) -> Contexts:
    """Every non-empty prefix of every row; labels (the next item) only for `Kind.REAL`.

    The last prefix of a row is the whole row and has no label.
    """
    owner = lists.row_numbers()
    stop = np.arange(1, len(lists.items) + 1, dtype=np.int64)
    last = stop == lists.indptr[owner + 1]
    target = np.full(len(stop), -1, np.int32)
    if kind == Kind.REAL:
        target[:-1] = lists.items[1:]
        target[last] = -1
    return Contexts(
        n_items,
        lists.items.astype(np.int32),
        lists.indptr[owner].astype(np.int64),
        stop,
        user[owner].astype(np.int32),
        target,
        np.full(len(stop), kind, np.uint8),
    )


def train_contexts(dataset: Dataset) -> Contexts:
    """All prefixes of every user's train sequence, with next-item labels."""
    return prefixes(dataset.lists(TRAIN, TRAIN), dataset.n_items, Kind.REAL, np.arange(dataset.n_users))


def history_contexts(dataset: Dataset, users: np.ndarray, part: int) -> Contexts:
    """One context a user: all that is known before `part` (train for validation, train and validation for test)."""
    return from_lists(dataset.history(part).take(users), dataset.n_items, Kind.REAL, users)
