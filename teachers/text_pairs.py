"""Pairs of items that follow each other in a user's history, and the batches in which a text tower meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distill.data.dataset import Lists
from distill.job import Batch
from teachers.histories import Histories
from teachers.text_encoder import Texts

WINDOW = 32  # batches within which pairs are sorted by length: padding shrinks, and batches stay mixed


@dataclass(frozen=True)
class Pairs:
    """Positive pairs, the near ones first.

    Attributes:
        items: Item indices, int64 (P, 2).
        near: How many pairs (the first ones) are direct neighbours; the rest are two apart.
        place: Where in all lists, end to end, the left item of each pair stands, int64 (P,).
    """

    items: np.ndarray
    near: int
    place: np.ndarray

    def epoch(self, far_share: float, rng: np.random.Generator) -> np.ndarray:
        """Pair numbers of one epoch: every near pair, and `far_share` as many distance-2 pairs drawn anew."""
        far = np.arange(self.near, len(self.items))
        drawn = rng.choice(far, min(len(far), round(far_share * self.near)), replace=False)
        return rng.permutation(np.concatenate([np.arange(self.near), drawn]))


def neighbour_pairs(lists: Lists) -> Pairs:
    """All ordered pairs of different items one or two places apart in a user's list."""
    user = lists.row_numbers()
    parts, places = [], []
    for distance in (1, 2):
        left, right = lists.items[:-distance], lists.items[distance:]
        keep = (user[:-distance] == user[distance:]) & (left != right)
        parts.append(np.stack([left[keep], right[keep]], axis=1).astype(np.int64))
        places.append(np.flatnonzero(keep))
    return Pairs(np.concatenate(parts), len(parts[0]), np.concatenate(places))


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


@dataclass
class PairBatches:
    """Batches of pairs, as a `TextEncoder` takes them.

    Attributes:
        pairs: Positive pairs.
        wordings: Tokens of each item's own text, then of its paraphrases, catalogue after catalogue.
        log_popularity: Log-probability of meeting each item in a batch, (N,).
        seed: With the numbers of a batch's pairs it decides what is drawn.
        hard: Hard negatives of each item of a pair.
        nearest: Candidates for them, best first, int64 (N, C).
        histories: Of the pairs' left items, where the next item is learned too.
    """

    pairs: Pairs
    wordings: Texts
    log_popularity: Tensor
    seed: int
    hard: int = 0
    nearest: Tensor | None = None
    histories: Histories | None = None

    def epoch(self, number: int, far_share: float, batch_size: int, most: int) -> list[np.ndarray]:
        """Pair numbers of each batch of an epoch; at most `most` batches, 0 for all."""
        rng = np.random.default_rng([self.seed, number])
        numbers = self.pairs.epoch(far_share, rng)
        lengths = self.wordings.lengths[self.pairs.items[numbers]].max(1)
        batches = length_batches(numbers, lengths, batch_size, rng)
        return batches[:most] if most else batches

    def collate(self, numbers: np.ndarray) -> Batch:
        """Each item of the batch's pairs once, and the pairs as rows of those."""
        unique, inverse = np.unique(self.pairs.items[numbers], return_inverse=True)
        items, rows = torch.from_numpy(unique), torch.from_numpy(inverse.reshape(-1, 2))
        batch = {"left": rows[:, 0], "right": rows[:, 1]}
        if self.hard:
            items, batch["negatives"] = self._with_negatives(items, numbers)
        if self.histories is not None:
            items, more = self.histories.join(items, numbers)
            batch |= more
        batch |= self.wordings.batch(items + len(self.log_popularity) * self.wording(numbers, len(items)))
        return batch | {"item": items, "log_popularity": self.log_popularity[items]}

    def wording(self, numbers: np.ndarray, count: int) -> Tensor:
        """Which wording each item of a batch shows, int64 (count,); 0 is its own text. The batch alone decides it."""
        wordings = len(self.wordings) // len(self.log_popularity)
        return torch.from_numpy(np.random.default_rng([self.seed, *numbers]).integers(0, wordings, count))

    def _with_negatives(self, items: Tensor, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """A batch's items with hard negatives of each behind them, and the rows (M, H) of each item's negatives."""
        assert self.nearest is not None, "mine first"
        pool = self.nearest[items]
        order = np.random.default_rng([self.seed, 1, *numbers]).random(pool.shape).argsort(1)[:, : self.hard]
        drawn = pool.gather(1, torch.from_numpy(order))
        whole = torch.cat([items, torch.from_numpy(np.setdiff1d(drawn.numpy(), items.numpy()))])
        place = torch.zeros(len(self.log_popularity), dtype=torch.int64)
        place[whole] = torch.arange(len(whole))
        return whole, functional.pad(place[drawn], (0, 0, 0, len(whole) - len(items)))
