"""Pairs of items that follow each other in a user's history, and the batches in which a text tower meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.data.dataset import Lists

WINDOW = 32  # batches within which pairs are sorted by length: padding shrinks, and batches stay mixed


@dataclass(frozen=True)
class Pairs:
    """Positive pairs, the near ones first.

    Attributes:
        items: Item indices, int64 (P, 2).
        near: How many pairs (the first ones) are direct neighbours; the rest are two apart.
    """

    items: np.ndarray
    near: int

    def epoch(self, far_share: float, rng: np.random.Generator) -> np.ndarray:
        """Pair numbers of one epoch: every near pair, and `far_share` as many distance-2 pairs drawn anew."""
        far = np.arange(self.near, len(self.items))
        drawn = rng.choice(far, min(len(far), round(far_share * self.near)), replace=False)
        return rng.permutation(np.concatenate([np.arange(self.near), drawn]))


def neighbour_pairs(lists: Lists) -> Pairs:
    """All ordered pairs of different items one or two places apart in a user's list."""
    user = lists.row_numbers()
    parts = []
    for distance in (1, 2):
        left, right = lists.items[:-distance], lists.items[distance:]
        keep = (user[:-distance] == user[distance:]) & (left != right)
        parts.append(np.stack([left[keep], right[keep]], axis=1).astype(np.int64))
    return Pairs(np.concatenate(parts), len(parts[0]))


def length_batches(
    numbers: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cuts shuffled pair numbers into batches of similar length, in random order.

    Args:
        numbers: Pair numbers in random order, (P,).
        lengths: Length of each of these pairs, in tokens, (P,).
        batch_size: Pairs a batch; one batch of the epoch takes the remainder, so that it may be half smaller or larger.
        rng: Decides the order of the batches.
    """
    count = max(1, round(len(numbers) / batch_size))
    order = np.arange(len(numbers))
    for first in range(0, len(order), WINDOW * batch_size):
        window = order[first : first + WINDOW * batch_size]
        window[:] = window[np.argsort(lengths[window], kind="stable")]
    batches = np.split(numbers[order], np.arange(1, count) * batch_size)
    return [batches[i] for i in rng.permutation(count)]
