"""Batches of whole stretches of sequences: every place an example, nothing laid out twice.

Contexts one by one repeat a user's history for each of its prefixes. A window holds up to W consecutive contexts of one
user and the L items before the first of them, cut from the flat array of all events when the batch is made, so that an
item's vector is read once for all contexts that it is part of. Contexts of a batch of S windows are numbered
w * S + s: place w of window s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from distill.data.ragged import Lists
from distill.job import Batch


@dataclass(frozen=True)
class Windows:
    """The windows of some sequences.

    Attributes:
        lists: A row a user: items in order.
        n_items: N, the padding index.
        width: W, most contexts of a window.
        length: L, longest history of a context.
        owner: User of each window, int64 (R,).
        first: Events of the user before the window's first label, int64 (R,), at least 1.
        shuffle: Seed of a new random order of each user's events in every epoch; None keeps the order.
    """

    lists: Lists
    n_items: int
    width: int
    length: int
    owner: np.ndarray
    first: np.ndarray
    shuffle: int | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)
    _again: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lists: Lists, n_items: int, width: int, length: int, shuffle: int | None = None) -> Windows:
        """Cuts every row: its 2nd to (W + 1)-th event are the labels of the first window, and so on."""
        contexts = np.maximum(np.diff(lists.indptr) - 1, 0)
        pieces = -(-contexts // width)
        owner = np.repeat(np.arange(len(contexts)), pieces)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        return cls(lists, n_items, width, length, owner, 1 + width * place, shuffle)

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def contexts(self) -> int:
        """Labelled contexts of all windows."""
        return int(np.maximum(np.diff(self.lists.indptr) - 1, 0).sum())

    def batches(self, size: int, seed: int, epoch: int, most: int = 0) -> list[np.ndarray]:
        """Numbers of windows in batches of about `size` contexts; they hold the epoch, which `batch` needs to know.

        Args:
            size: Contexts in a batch.
            seed: Of the training.
            epoch: Of the training.
            most: Contexts in an epoch; 0 takes all.
        """
        if not len(self):
            return []
        return drawn(np.arange(len(self)), self.contexts / len(self), size, seed, epoch, most, len(self))

    def batch(self, numbers: np.ndarray) -> Batch:
        """Tensors of some windows.

        Returns:
            history (S, L + W - 1), padded with N on either side; label and user (W * S,), label -1 where a window has
            no further context; window_first (S,), how many events of the user the window's first context has seen;
            window_events, window_row and window_place (F,), all events that some context has seen: item, window, and
            place in the user's sequence. window_repeats (W * S,), which labels have been seen, where a user's events
            may repeat.
        """
        rows, epoch = numbers % len(self), int(numbers[0]) // len(self) if len(numbers) else 0
        items, again = self._items(epoch), self._repeats(epoch)
        user, first = self.owner[rows], self.first[rows]
        start, count = self.lists.indptr[user], np.diff(self.lists.indptr)[user]
        width = int(np.minimum(self.width, count - first).max(initial=1))
        length = int(min(self.length, (first + width - 1).max(initial=1)))
        last = np.minimum(first + width, count)  # events up to the last label, which is never part of a history

        def events(place: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            inside = (place >= 0) & (place < stop[:, None])
            at = np.where(inside, start[:, None] + place, 0)
            return np.where(inside, items[at], self.n_items).astype(np.int64), at

        history, _ = events(first[:, None] - length + np.arange(length + width - 1), last - 1)
        label, label_at = (part.T.reshape(-1) for part in events(first[:, None] + np.arange(width), last))
        row = np.repeat(np.arange(len(rows)), last - 1)
        place = np.arange(len(row)) - np.repeat(np.cumsum(last - 1) - (last - 1), last - 1)
        batch = {
            "history": history,
            "label": np.where(label == self.n_items, -1, label),
            "user": np.tile(user, width).astype(np.int64),
            "window_first": first.astype(np.int64),
            "window_events": items[start[row] + place].astype(np.int64),
            "window_row": row.astype(np.int64),
            "window_place": place.astype(np.int32),
        }
        if again is not None:
            batch["window_repeats"] = again[label_at]
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _items(self, epoch: int) -> np.ndarray:
        """All events, those of each user in the order of the epoch."""
        if self.shuffle is None:
            return self.lists.items
        if epoch not in self._orders:
            self._orders.clear()
            drawn = np.random.default_rng([self.shuffle, epoch, 1]).random(len(self.lists.items))
            self._orders[epoch] = self.lists.items[np.lexsort((drawn, self.lists.row_numbers()))]
        return self._orders[epoch]

    def _repeats(self, epoch: int) -> np.ndarray | None:
        """Which events repeat an earlier one of the same user, bool (E,); None where no order has any."""
        if "any" not in self._again:
            self._again["any"] = repeated(self.lists, self.lists.items)
        first = self._again["any"]
        if not first.any():
            return None
        if self.shuffle is None:
            return first
        key = str(epoch)
        if key not in self._again:
            self._again.clear()
            self._again.update({"any": first, key: repeated(self.lists, self._items(epoch))})
        return self._again[key]


def drawn(rows: np.ndarray, mean: float, size: int, seed: int, epoch: int, most: int, total: int) -> list[np.ndarray]:
    """Rows of `mean` contexts each, shuffled, in batches of about `size` contexts; `epoch` * `total` is added."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order = order[: max(1, round(most / mean))] if most else order
    return np.array_split(order + epoch * total, max(1, round(len(order) * mean / size)))


def repeated(lists: Lists, items: np.ndarray) -> np.ndarray:
    """Which events (E,) repeat an earlier one of the same row."""
    again = np.ones(len(items), dtype=bool)
    if len(items):
        pairs = lists.row_numbers().astype(np.int64) * (int(items.max()) + 1) + items
        again[np.unique(pairs, return_index=True)[1]] = False
    return again
