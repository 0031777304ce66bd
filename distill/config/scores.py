"""Settings of the section `scores`: the soft-score store and the transfer set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Scores:
    """The soft-score store and the transfer set that it covers.

    Attributes:
        k: Items stored a row (the teacher's top k outside the history).
        temperatures: Temperatures at which log-sum-exp over the catalogue is stored.
        tail_samples: Items outside the top k stored a row, with their proposal log-probability.
        hidden: The member whose vectors of the contexts are stored too, for losses on representations; "" for none.
        shard_rows: Rows in a shard file.
        drops, crops: Synthetic copies of each user's train sequence.
        singles: Every item as a history of its own.
        rollouts: Histories extended by an item drawn from the teacher's top k with probability p ** rollout_power.
        appends: Histories extended by a uniformly drawn item.
        mixes: The latest halves of two users' histories, interleaved.
        masks, reorders, substitutes: Copies of each user's train sequence with items left empty, with a piece shuffled,
            with items replaced by similar ones (`distill.data.edits`).
        similar: What makes items similar: how often they are near each other in train, or the words of their texts.
        max_prefixes: At most so many (the latest) prefixes of a synthetic sequence become contexts.
        budget: Contexts that the teacher is asked about: a share below 1, or a number; 0 or 1 for all.
        price_per_hour: Price of an hour of the machine that scores, in any currency; 0 leaves it out.
        select: Which ones, where the budget doesn't reach for all (`distill.data.select`).
    """

    k: int = 100
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    tail_samples: int = 0
    hidden: str = ""
    shard_rows: int = 16384
    drops: int = 1
    crops: int = 0
    singles: bool = True
    rollouts: int = 6
    rollout_power: float = 0.7
    appends: int = 3
    mixes: int = 0
    masks: int = 0
    reorders: int = 0
    substitutes: int = 0
    similar: Literal["cooccurrence", "text"] = "cooccurrence"
    max_prefixes: int = 5
    budget: float = 0.0
    price_per_hour: float = 0.0
    select: Literal["uniform", "uncertainty", "tail_first", "diversity"] = "uniform"
