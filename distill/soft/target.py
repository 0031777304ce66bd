"""What a student is trained against: hard labels, and a teacher's scores from the store or live."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SoftTarget:
    """Targets of a batch of B contexts.

    Attributes:
        label: Next item, int64 (B,); -1 where a context has none (synthetic rows, the end of a sequence).
        items: The teacher's top K items outside the history, best first, int64 (B, K); None without a teacher. Padded
            with -1 where the teacher ranks fewer.
        scores: Their raw scores, before any softmax, float (B, K).
        logz: log-sum-exp of the teacher's raw scores over all items outside the history at temperature 1, float (B,).
        strata: Popularity stratum of every item, int64 (N,); 0 is the head.
        popularity: Train share of every item, float (N,), sums to 1.
    """

    label: Tensor
    items: Tensor | None = None
    scores: Tensor | None = None
    logz: Tensor | None = None
    strata: Tensor | None = None
    popularity: Tensor | None = None
