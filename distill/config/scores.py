"""Settings of the section `scores`: the soft-score store and the transfer set."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scores:
    """The soft-score store and the transfer set that it covers.

    Attributes:
        k: Items stored a row (the teacher's top k outside the history).
        temperatures: Temperatures at which log-sum-exp over the catalogue is stored.
        tail_samples: Items outside the top k stored a row, with their proposal log-probability.
        shard_rows: Rows in a shard file.
        drops, crops: Synthetic copies of each user's train sequence.
        singles: Every item as a history of its own.
        rollouts: Histories extended by an item drawn from the teacher's top k with probability p ** rollout_power.
        appends: Histories extended by a uniformly drawn item.
        max_prefixes: At most so many (the latest) prefixes of a synthetic sequence become contexts.
    """

    k: int = 100
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    tail_samples: int = 0
    shard_rows: int = 16384
    drops: int = 1
    crops: int = 0
    singles: bool = True
    rollouts: int = 6
    rollout_power: float = 0.7
    appends: int = 3
    max_prefixes: int = 5
