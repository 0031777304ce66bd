"""Batches of users as sets: one part of what a user did is the history for all items of the other part.

For data whose events have no order. A context with one next item needs a query of its own for each item; here one query
answers for half of a user's items, so an epoch costs what its scores cost and little more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from distill.data.ragged import Lists
from distill.job import Batch
from distill.windows.cut import drawn, repeated


@dataclass(frozen=True)
class Halves:
    """The two halves of each user's events, drawn anew in every epoch.

    Where a user's events may repeat, those with an item of the own history are no labels: they have been seen.

    Attributes:
        lists: A row a user: items.
        n_items: N.
        length: Most items of a history; those of a longer one are cut off at random.
        seed: Of the halves.
    """

    lists: Lists
    n_items: int
    length: int
    seed: int = 0
    _drawn: dict[int, tuple[Lists, Lists]] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        """Two a user; those of users with fewer than two events are empty, and no batch has them."""
        return 2 * len(self.lists)

    @property
    def contexts(self) -> int:
        """Labels of an epoch: all events of users with two or more, repeated ones among them."""
        counts = self.lists.lengths
        return int(counts[counts > 1].sum())

    def batches(self, size: int, seed: int, epoch: int, most: int = 0) -> list[np.ndarray]:
        """Numbers of halves in batches of about `size` labels; they hold the epoch, which `batch` needs to know.

        Args:
            size: Labels in a batch.
            seed: Of the training.
            epoch: Of the training.
            most: Labels in an epoch; 0 takes all.
        """
        known = np.flatnonzero(self.lists.lengths > 1)
        if not len(known):
            return []
        halves = np.concatenate([known, known + len(self.lists)])
        return drawn(halves, self.contexts / len(halves), size, seed, epoch, most, len(self))

    def batch(self, numbers: np.ndarray) -> Batch:
        """Tensors of some halves.

        Returns:
            history and set_row (H,): items of all histories and the number of each one's half, ascending; label and
            label_row (F,): items of the other halves, likewise; user (S,).
        """
        epoch, halves = int(numbers[0]) // len(self), numbers % len(self)
        read, asked = self._halves(epoch)
        history, label = read.take(halves), asked.take((halves + len(self.lists)) % len(self))
        arrays = {
            "history": history.items,
            "set_row": history.row_numbers(),
            "label": label.items,
            "label_row": label.row_numbers(),
            "user": halves % len(self.lists),
        }
        return {name: torch.from_numpy(values.astype(np.int64)) for name, values in arrays.items()}

    def _halves(self, epoch: int) -> tuple[Lists, Lists]:
        """Halves u and U + u of each user u, as histories, of which the longest are cut, and whole."""
        if epoch not in self._drawn:
            self._drawn.clear()
            random = np.random.default_rng([self.seed, epoch, 2])
            second = random.integers(0, 2, len(self.lists.items), dtype=np.uint8)
            start = self.lists.indptr[:-1][self.lists.lengths > 1]
            second[start] = 1 - second[start + 1]  # so that neither half is empty
            whole = self._parted(second)
            asked = whole if self._distinct else _unseen(whole, self.n_items)
            self._drawn[epoch] = _cut(whole, self.length, random), asked
        return self._drawn[epoch]

    @cached_property
    def _distinct(self) -> bool:
        """Whether no user has an item twice."""
        return not repeated(self.lists, self.lists.items).any()

    def _parted(self, second: np.ndarray) -> Lists:
        """The events by half and user, without sorting."""
        in_second = second.view(bool)
        before = np.concatenate([[0], np.cumsum(second, dtype=np.int64)])[self.lists.indptr]
        first = self.lists.indptr - before
        items = np.concatenate([self.lists.items[~in_second], self.lists.items[in_second]])
        return Lists(np.concatenate([first, first[-1] + before[1:]]), items)


def _unseen(halves: Lists, n_items: int) -> Lists:
    """The halves u and U + u of each user u, each without what stands in the other one too."""
    row = halves.row_numbers()
    key, other = (number * n_items + halves.items for number in (row, (row + len(halves) // 2) % len(halves)))
    kept = ~np.isin(other, key)
    counts = np.bincount(row[kept], minlength=len(halves))
    return Lists(np.concatenate([[0], np.cumsum(counts)]), halves.items[kept])


def _cut(lists: Lists, length: int, random: np.random.Generator) -> Lists:
    """Rows of at most `length` items, those of longer ones drawn at random."""
    if lists.lengths.max(initial=0) <= length:
        return lists
    rows = lists.row_numbers()
    order = np.lexsort((random.random(len(rows)), rows))
    kept = order[np.arange(len(rows)) - lists.indptr[rows] < length]
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lists.lengths, length))])
    return Lists(indptr, lists.items[kept])
