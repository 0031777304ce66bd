"""Settings of the section `teacher`."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.config.run import Spec


@dataclass(frozen=True)
class Fusion:
    """How the members' log-scores are weighted on validation: maximise ndcg@10 + tail_weight * tail_ndcg@10."""

    tail_weight: float = 0.0
    rounds: int = 3


@dataclass(frozen=True)
class Teacher:
    """Members by their own name in the order they are fitted, fused late into one teacher.

    `item_vectors` names the member whose vectors students start from; empty, it is the first that has any.
    """

    members: dict[str, Spec] = field(default_factory=dict)
    item_vectors: str = ""
    fusion: Fusion = field(default_factory=Fusion)
