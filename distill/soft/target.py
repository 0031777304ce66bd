"""What a student is trained against: hard labels, and a teacher's scores from the store or live."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distill.errors import UserError


@dataclass(frozen=True)
class SoftTarget:
    """Targets of a batch of B contexts.

    Attributes:
        label: Next item, int64 (B,); -1 where a context has none (synthetic rows, the end of a sequence).
        items: The teacher's top K items outside the history, best first, int64 (B, K); None without a teacher. Padded
            with -1 where the teacher ranks fewer.
        scores: Their raw scores, before any softmax, float (B, K).
        logz: log-sum-exp of the teacher's raw scores over temperature, over all items outside the history, one column
            for each of `temperatures`, float (B, T).
        temperatures: Temperatures of `logz`; 1 is always among them.
        tail_items: Items drawn outside the top K, int64 (B, S); None where the store holds none.
        tail_scores: Their raw scores (B, S).
        tail_logq: Log-probability with which each was drawn (B, S).
        dense: The teacher's scores of the whole catalogue (B, N), -inf at seen items; only from a live teacher.
        weights: Weight of each of the teacher's items in losses that compare items one by one (B, K); None is 1.
        hidden: The teacher's vector of the context (B, H); None where the store holds none.
        user: Number of the context's user, int64 (B,); -1 where it has none (an item as a history of its own).
        strata: Popularity stratum of every item, int64 (N,); 0 is the head.
        popularity: Train share of every item, float (N,), sums to 1.
        progress: Share of the training that is done, 0 to 1.
    """

    label: Tensor
    items: Tensor | None = None
    scores: Tensor | None = None
    logz: Tensor | None = None
    temperatures: tuple[float, ...] = (1.0,)
    tail_items: Tensor | None = None
    tail_scores: Tensor | None = None
    tail_logq: Tensor | None = None
    dense: Tensor | None = None
    weights: Tensor | None = None
    hidden: Tensor | None = None
    user: Tensor | None = None
    strata: Tensor | None = None
    popularity: Tensor | None = None
    progress: float = 0.0

    def log_normaliser(self, temperature: float = 1.0) -> Tensor:
        """logz at one temperature (B,).

        Raises:
            UserError: The store doesn't hold that temperature.
        """
        if self.logz is None or temperature not in self.temperatures:
            raise UserError(
                f"A loss needs the teacher's normaliser at temperature {temperature:g}; the store holds "
                f"{[f'{t:g}' for t in self.temperatures] if self.logz is not None else 'none'}. Add it to "
                "'scores.temperatures' and run: distill score-teacher CONFIG"
            )
        return self.logz[:, self.temperatures.index(temperature)]
