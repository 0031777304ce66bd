"""What a cross-encoder is trained on: contexts with the item that came next, negatives, and pairs of items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from distill.data.contexts import ContextBatch, Contexts
from distill.job import Batch
from teachers.multi_task import CoOccurrence, RatingBase
from teachers.negatives import draw_negatives
from teachers.pair_texts import PairTexts
from teachers.rerank import WHOLE, FirstStage


@dataclass(frozen=True)
class TrainPairs:
    """Train contexts as pairs of texts.

    Attributes:
        contexts: The train prefixes.
        texts: Makes the prompts.
        first: The retriever, whose candidates are the hard negatives.
        ratings: Of the train events (E,); only read where there is a base.
        base: Where ratings start from; None without ratings.
        similar: Which items share users; None without pairs of items.
        negatives: M, items beside each next item.
        hard: How many of them are candidates of the retriever.
        seed: Of the draws, which depend on it and on the contexts of the batch alone.
    """

    contexts: Contexts
    texts: PairTexts
    first: FirstStage
    ratings: np.ndarray
    base: RatingBase | None
    similar: CoOccurrence | None
    negatives: int
    hard: int
    seed: int

    def collate(self, numbers: np.ndarray) -> Batch:
        """B (1 + M) pairs of a context and an item, the next item first, then B pairs of items; and their targets.

        Args:
            numbers: Context numbers (B,).
        """
        rng = np.random.default_rng([self.seed, *numbers])
        batch = self.contexts.batch(numbers, WHOLE)
        items = np.hstack([batch.target[:, None], self._negatives(batch, rng)])
        history = np.repeat(batch.seen[:, -self.texts.max_items :], items.shape[1], axis=0)
        others, alike = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self.similar is not None:
            others = self.similar.partners(batch.target, rng)
            alike = self.similar.cosine(batch.target, others)
            alone = np.full((len(others), history.shape[1]), self.texts.n_items)
            alone[:, -1] = batch.target
            history = np.vstack([history, alone])
        pairs = self.texts.batch(history, np.concatenate([items.reshape(-1), others]))
        rating = np.zeros(len(numbers), np.float32)
        if self.base is not None:
            told = self.ratings[self.contexts.stop[numbers]]  # the event after the prefix
            rating = ((told - self.base.of(batch.user, batch.target)) / self.base.scale).astype(np.float32)
        return pairs | {"rating": torch.from_numpy(rating), "similarity": torch.from_numpy(alike)}

    def shortened(self, rows: np.ndarray) -> int:
        """How many of some contexts lose titles because they don't fit into the prompt."""
        count = 0
        for some in np.array_split(rows, max(1, len(rows) // 4096)):
            batch = self.contexts.batch(some, self.texts.max_items)
            count += int((self.texts.fit(batch.history, batch.target)[1] > 0).sum())
        return count

    def _negatives(self, batch: ContextBatch, rng: np.random.Generator) -> np.ndarray:
        if not self.negatives:
            return np.zeros((len(batch.target), 0), np.int64)
        items, valid = batch.target[:, None], np.zeros((len(batch.target), 1), bool)
        if self.hard:
            short = self.first.shortlist(batch)
            items, valid = short.items.numpy(), short.valid.numpy()
        return draw_negatives(
            items, valid, batch.target, batch.seen, self.texts.n_items, self.negatives, self.hard, rng
        )
