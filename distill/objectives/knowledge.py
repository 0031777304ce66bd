"""What losses on representations see: the student's vectors, and what is known for the whole training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Representation:
    """The student's own vectors for a batch of B contexts.

    Attributes:
        query: What is multiplied with the item table (B, D).
        table: Item vectors (N, D).
        bias: Item biases (N,).
        scores: Student scores (B, N), seen items masked with -inf.
        history: The contexts themselves (B, L), padded on the left with N.
        seen: Items to mask (B, S), padded on the left with N.
    """

    query: Tensor
    table: Tensor
    bias: Tensor
    scores: Tensor
    history: Tensor
    seen: Tensor


@dataclass(frozen=True)
class Knowledge:
    """What a loss with parameters of its own is built from; the same for every batch.

    Attributes:
        dim: Width D of the student's vectors.
        n_items: Catalogue size N.
        n_users: Number of users U.
        strata: Popularity stratum of every item, int64 (N,).
        popularity: Train share of every item (N,).
        item_vectors: The teacher's item vectors (N, T), or None.
        hidden: Width H of the teacher's context vectors; 0 where the store holds none.
        user_events: Train events of every user (U,).
        neighbours: Users nearest to each user in the teacher's space, int64 (U, M); None where `hidden` is 0.
        pairs: Item pairs that follow each other in train sequences, int64 (2, E), and `pair_counts` (E,) how often.
        build: Makes a further student of the same kind from a seed, for losses that train two at once.
    """

    dim: int
    n_items: int
    n_users: int
    strata: Tensor
    popularity: Tensor
    item_vectors: Tensor | None = None
    hidden: int = 0
    user_events: Tensor | None = None
    neighbours: Tensor | None = None
    pairs: Tensor | None = None
    pair_counts: Tensor | None = None
    build: Callable[[int], Any] | None = None
