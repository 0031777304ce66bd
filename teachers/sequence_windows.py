"""Which part of a history a sequence body reads, and which contexts one causal pass answers.

A body reads at most L items. A longer history of n items is read from its place w * s on, with s = L // 2 and the least
w for which the rest fits: always the latest items, at least L - s + 1 of them. A user's growing history so keeps its
window for s steps, and one pass over a window answers all contexts in it, in training as in scoring.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def first_read(lengths: np.ndarray, longest: int) -> np.ndarray:
    """From which place on histories of the given lengths (R,) are read by a body of at most `longest` items, (R,)."""
    step = max(1, longest // 2)
    return np.maximum(0, -(-(lengths - longest) // step)) * step


@dataclass(frozen=True)
class Windows:
    """Windows of many sequences that lie end to end.

    Attributes:
        begin: Where the window's sequence begins, int64 (W,).
        first: Where the window begins.
        stop: One past the window's last item.
        fresh: The items from here to `stop` are in no earlier window's share.
    """

    begin: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    fresh: np.ndarray

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def lengths(self) -> np.ndarray:
        """Items in each window, int64 (W,)."""
        return self.stop - self.first


def windows(indptr: np.ndarray, longest: int) -> Windows:
    """All windows that the prefixes of some sequences are read from, each once.

    Args:
        indptr: Bounds of the sequences (U + 1,).
        longest: L, most items in a window.

    Returns:
        Windows; the prefix that ends with item i is read from the window whose fresh items i is among.
    """
    lengths, step = np.diff(indptr), max(1, longest // 2)
    count = np.where(lengths > 0, first_read(lengths, longest) // step + 1, 0)
    owner = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    begin = indptr[:-1][owner].astype(np.int64)
    first = begin + number * step
    stop = np.minimum(first + longest, indptr[1:][owner])
    fresh = np.where(number == 0, first, first + longest - step)
    return Windows(begin, first, stop, fresh)


def rectangle(items: np.ndarray, first: np.ndarray, stop: np.ndarray, padding: int) -> np.ndarray:
    """items[first:stop] of each row, left-aligned and padded on the right, int64 (B, W), W >= 1."""
    width = max(1, int((stop - first).max(initial=1)))
    place = first[:, None] + np.arange(width)
    inside = place < stop[:, None]
    return np.where(inside, items[np.where(inside, place, 0)], padding).astype(np.int64)


def latest(seen: np.ndarray, longest: int, n_items: int, stepped: bool) -> tuple[np.ndarray, np.ndarray]:
    """The windows that histories are read from.

    Args:
        seen: Histories (B, S), right-aligned, padded with n_items; one inside a history is an item left out.
        longest: L, most items in a window.
        n_items: N, the number that stands for an item left out.
        stepped: Windows as `windows` cuts them; otherwise exactly the latest L items.

    Returns:
        Left-aligned windows (B, W), padded on the right with N + 1, and their lengths (B,). An empty history is a
        window of one item left out.
    """
    width = seen.shape[1]
    inside = seen < n_items
    whole = np.where(inside.any(1), width - inside.argmax(1), 0)
    skipped = first_read(whole, longest) if stepped else np.maximum(0, whole - longest)
    lengths = np.maximum(1, whole - skipped)
    place = (width - lengths)[:, None] + np.arange(int(lengths.max(initial=1)))
    rows = np.take_along_axis(seen, place.clip(max=width - 1), 1)
    return np.where(place < width, rows, n_items + 1), lengths


def shared(rows: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which windows need a pass of their own, and which are the beginning of another one.

    Args:
        rows: Windows (B, W), left-aligned.
        lengths: Items in each (B,).

    Returns:
        Numbers of the rows that need a pass (P,), and for every row which of those passes (B,) answers it, at the
        place lengths - 1.
    """
    inside = np.arange(rows.shape[1]) < lengths[:, None]
    keys = np.where(inside, rows, -1)  # a beginning sorts right before what goes on from it
    order = np.lexsort(keys.T[::-1])
    ordered, counted = keys[order], lengths[order]
    same = (ordered[:-1] == ordered[1:]) | ~(np.arange(rows.shape[1]) < counted[:-1, None])
    ends = np.append(~same.all(1), True)[: len(order)]
    number = np.cumsum(ends) - ends  # the pass of the next end at or after each row
    passes = np.empty(len(order), np.int64)
    passes[order] = number
    return order[ends], passes
