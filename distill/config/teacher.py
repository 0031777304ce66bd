"""Settings of the section `teacher`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.config.run import Spec


@dataclass(frozen=True)
class Fusion:
    """How the members' log-scores are weighted on validation: maximise ndcg@10 + tail_weight * tail_ndcg@10.

    Then as much of the popularity prior is taken out of the fused scores as that sum asks for, at the cost of at most
    the share `tilt` of ndcg@10; 0 leaves the scores as they are.

    `by` allows weights of their own for each third of the items by popularity ("item_stratum") or of the users by
    activity ("user_activity"), where they win on validation users that they weren't fitted on; "auto" tries both.
    """

    tail_weight: float = 0.5
    rounds: int = 3
    tilt: float = 0.02
    by: Literal["none", "item_stratum", "user_activity", "auto"] = "none"


@dataclass(frozen=True)
class Teacher:
    """Members by their own name in the order they are fitted, fused late into one teacher.

    `item_vectors` names the member whose vectors students start from; empty, it is the first that has any. They are
    joined with the groups of item features in `item_features`: "attributes", or the name of one of `data.embeddings`.

    With `cross_fit` folds of users, contexts of a train user are labelled by closed-form members that were fitted
    without that user's fold; 0 uses the members as they are.
    """

    members: dict[str, Spec] = field(default_factory=dict)
    item_vectors: str = ""
    item_features: list[str] = field(default_factory=list)
    fusion: Fusion = field(default_factory=Fusion)
    cross_fit: int = 0
