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
from torch import Tensor

from distill.data.ragged import Lists
from distill.job import Batch

FEW = 2**25  # cells of a table of where each window has each item, up to which it is laid out


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
        mean = self.contexts / len(self)
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        order = order[: max(1, round(most / mean))] if most else order
        return np.array_split(order + epoch * len(self), max(1, round(len(order) * mean / size)))

    def batch(self, numbers: np.ndarray) -> Batch:
        """Tensors of some windows.

        Returns:
            history (S, L + W - 1), padded with N on either side; label and user (W * S,), label -1 where a window has
            no further context; window_seen (S, M), each user's events from the first on, padded with N on the right;
            window_first (S,), how many of them the window's first context has seen.
        """
        rows, epoch = numbers % len(self), int(numbers[0]) // len(self) if len(numbers) else 0
        items = self._items(epoch)
        user, first = self.owner[rows], self.first[rows]
        start, count = self.lists.indptr[user], np.diff(self.lists.indptr)[user]
        width = int(np.minimum(self.width, count - first).max(initial=1))
        length = int(min(self.length, (first + width - 1).max(initial=1)))
        last = np.minimum(first + width, count)  # events up to the last label, which is never part of a history

        def events(place: np.ndarray, stop: np.ndarray) -> np.ndarray:
            inside = (place >= 0) & (place < stop[:, None])
            found = items[np.where(inside, start[:, None] + place, 0)]
            return np.where(inside, found, self.n_items).astype(np.int64)

        history = events(first[:, None] - length + np.arange(length + width - 1), last - 1)
        label = events(first[:, None] + np.arange(width), last).T.reshape(-1)
        seen = events(np.arange(int((last - 1).max(initial=1)))[None, :], last - 1)
        return {
            "history": torch.from_numpy(history),
            "label": torch.from_numpy(np.where(label == self.n_items, -1, label)),
            "user": torch.from_numpy(np.tile(user, width).astype(np.int64)),
            "window_seen": torch.from_numpy(seen),
            "window_first": torch.from_numpy(first.astype(np.int64)),
        }

    def _items(self, epoch: int) -> np.ndarray:
        """All events, those of each user in the order of the epoch."""
        if self.shuffle is None:
            return self.lists.items
        if epoch not in self._orders:
            self._orders.clear()
            drawn = np.random.default_rng([self.shuffle, epoch, 1]).random(len(self.lists.items))
            self._orders[epoch] = self.lists.items[np.lexsort((drawn, self.lists.row_numbers()))]
        return self._orders[epoch]


@dataclass(frozen=True)
class Seen:
    """What each context of a batch has seen, for contexts one by one: items (B, S), padded with N or more."""

    items: Tensor
    n_items: int

    def among(self, place: Tensor, count: int) -> Tensor:
        """Which of `count` items each context has seen (B, count); `place` (N + 1,) is an item's number, or -1."""
        hidden = torch.zeros(len(self.items), count + 1, dtype=torch.bool, device=self.items.device)
        return hidden.scatter_(1, place[self.items.clamp_max(self.n_items)] % (count + 1), True)[:, :count]

    def holds(self, items: Tensor) -> Tensor:
        """Which of the items (B, J) each context has seen."""
        if len(self.items) * self.n_items > FEW:
            return torch.stack([(self.items == column[:, None]).any(1) for column in items.unbind(1)], 1)
        known = torch.zeros(len(self.items), self.n_items + 1, dtype=torch.bool, device=self.items.device)
        return known.scatter_(1, self.items.clamp_max(self.n_items), True).gather(1, items)


@dataclass(frozen=True)
class WindowSeen:
    """The same for windows: context w of window s has seen the first `first[s] + w` of `items[s]`.

    Attributes:
        items: (S, M), padded with N.
        first: (S,).
        width: W.
        n_items: N.
    """

    items: Tensor
    first: Tensor
    width: int
    n_items: int

    @property
    def until(self) -> Tensor:
        """Events that each context has seen (W, S)."""
        return self.first[None, :] + torch.arange(self.width, device=self.first.device)[:, None]

    def among(self, place: Tensor, count: int) -> Tensor:
        """Which of `count` items each context has seen (W * S, count); `place` (N + 1,) is an item's number, or -1."""
        at = self._first_place(place[self.items] % (count + 1), count + 1)[:, :count]
        return (at[None] < self.until[:, :, None]).flatten(0, 1)

    def holds(self, items: Tensor) -> Tensor:
        """Which of the items (W * S, J) each context has seen."""
        shaped = items.view(self.width, len(self.items), -1)
        if len(self.items) * self.n_items > FEW:
            at = torch.stack([self._search(column) for column in shaped.flatten(0, 1).unbind(1)], 1).view_as(shaped)
        else:
            where = self._first_place(self.items, self.n_items + 1)
            at = where[None].expand(self.width, -1, -1).gather(2, shaped)
        return (at < self.until[:, :, None]).flatten(0, 1)

    def mask(self, scores: Tensor) -> Tensor:
        """Sets the scores (W * S, N) of seen items to -inf, in place."""
        at = self._first_place(self.items, self.n_items + 1)[:, : self.n_items]
        scores.view(self.width, len(at), -1).masked_fill_(at[None] < self.until[:, :, None], -torch.inf)
        return scores

    def _first_place(self, columns: Tensor, count: int) -> Tensor:
        """Place of the first event in each column (S, count), M where there is none."""
        places = torch.arange(columns.shape[1], device=columns.device, dtype=torch.int32).expand_as(columns)
        out = torch.full((len(columns), count), 2**30, dtype=torch.int32, device=columns.device)
        return out.scatter_reduce_(1, columns, places, "amin")

    def _search(self, items: Tensor) -> Tensor:
        """Place of the first event with one item a context (W * S,)."""
        rows = self.items.repeat(self.width, 1) == items[:, None]
        return torch.where(rows.any(1), rows.to(torch.uint8).argmax(1), 2**30).to(torch.int32)


def seen_of(batch: Batch, n_items: int) -> Seen | WindowSeen:
    """What the contexts of a batch have seen, of either kind."""
    if "window_seen" not in batch:
        return Seen(batch["seen"], n_items)
    width = len(batch["label"]) // len(batch["window_first"])
    return WindowSeen(batch["window_seen"], batch["window_first"], width, n_items)
