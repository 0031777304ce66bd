"""One seeded sample for every peer: factor matrices, histories and held-out items with a long tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.data.dataset import Lists
from distill.ranking.cases import Cases


@dataclass(frozen=True)
class Sample:
    """Scores are user_vectors @ item_vectors.T.

    Attributes:
        user_vectors: float32 (U, D).
        item_vectors: float32 (N, D).
        cases: Histories of 20 to 200 items, and 1 to 40 held-out items, a user.
    """

    user_vectors: np.ndarray
    item_vectors: np.ndarray
    cases: Cases

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Scores of the users `rows`, consecutive, for all items, float32 (b, N)."""
        return self.user_vectors[rows[0] : rows[-1] + 1] @ self.item_vectors.T


def draw(users: int = 6000, n_items: int = 3000, dimensions: int = 64, seed: int = 0) -> Sample:
    """Draws vectors, and interactions that follow their scores and a power law of popularity."""
    rng = np.random.default_rng(seed)
    user_vectors = rng.normal(size=(users, dimensions)).astype(np.float32)
    item_vectors = rng.normal(size=(n_items, dimensions)).astype(np.float32) / np.float32(np.sqrt(dimensions))
    pull = -0.8 * np.log(np.arange(1, n_items + 1))[rng.permutation(n_items)]
    item_vectors[:, 0], user_vectors[:, 0] = pull, 1.0
    seen_lengths, truth_lengths = rng.integers(20, 201, users), rng.integers(1, 41, users)
    seen, truth = [], []
    for first in range(0, users, 512):
        block = slice(first, first + 512)
        keys = user_vectors[block] @ item_vectors.T + rng.gumbel(size=(len(user_vectors[block]), n_items))
        drawn = np.argsort(-keys, axis=1)[:, :240].astype(np.int32)
        places = np.arange(240)
        known = seen_lengths[block, None]
        mixed = np.take_along_axis(drawn, np.argsort(rng.random(drawn.shape), axis=1), axis=1)
        seen.append(mixed[places < known])
        truth.append(mixed[(places >= known) & (places < known + truth_lengths[block, None])])
    history = np.concatenate(seen)
    cases = Cases(
        users=np.arange(users),
        seen=Lists(np.concatenate([[0], np.cumsum(seen_lengths)]), history),
        truth=Lists(np.concatenate([[0], np.cumsum(truth_lengths)]), np.concatenate(truth)),
        n_items=n_items,
        popularity=np.bincount(history, minlength=n_items),
        activity=seen_lengths,
        n_train_users=users,
    )
    return Sample(user_vectors, item_vectors, cases)
