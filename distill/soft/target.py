"""What a student is trained against: hard labels, and a teacher's scores from the store or live."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import UserError

LEAST_REMAINDER = (
    1e-6  # share of the teacher's mass outside its top K that is assumed at least; half precision hides less
)


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

    def score_of(self, items: Tensor, unseen: Tensor | None = None) -> Tensor:
        """The teacher's raw scores of any items, as well as they are known.

        In this order: the whole row of a live teacher; the top K; the sampled tail; else the mass outside the top K
        spread evenly over what is left, log((e^logz - sum_topK e^s) / (unseen - K)), and no more than the K-th score.

        Args:
            items: Item indices (B, M); what stands at -1 is of no use.
            unseen: Number of items outside each history (B,); None takes the catalogue's size.

        Returns:
            Scores (B, M); -inf only where a whole row says so.

        Raises:
            UserError: There is no teacher.

        Example:
            >>> target = SoftTarget(torch.tensor([2]), torch.tensor([[2, 0]]), torch.tensor([[1.0, 0.5]]))
            >>> target.score_of(torch.tensor([[0, 2, 1]])).tolist()
            [[0.5, 1.0, 0.5]]
        """
        if self.dense is not None:
            return self.dense.gather(1, items.clamp_min(0))
        if self.items is None or self.scores is None:
            raise UserError(
                "A loss needs a teacher's scores; 'control_losses' trains without a teacher. Move it to 'losses'."
            )
        found = self.remainder(unseen)[:, None].expand(items.shape)
        if self.tail_items is not None and self.tail_scores is not None:
            found = torch.where(*_look_up(self.tail_items, self.tail_scores, items), found)
        return torch.where(*_look_up(self.items, self.scores, items), found)

    def remainder(self, unseen: Tensor | None = None) -> Tensor:
        """The score of an item outside the top K of which nothing else is known (B,); see `score_of`."""
        assert self.items is not None and self.scores is not None
        valid = self.items >= 0
        last = self.scores.masked_fill(~valid, torch.inf).amin(-1)
        last = torch.where(valid.any(-1), last, 0.0)
        every = next((t for t in (self.popularity, self.strata) if t is not None), None)
        if self.logz is None or 1.0 not in self.temperatures or (unseen is None and every is None):
            return last
        if unseen is None:
            assert every is not None
            unseen = valid.new_full((len(valid),), len(every), dtype=torch.int64)
        logz = self.log_normaliser().to(self.scores.dtype)
        inside = self.scores.masked_fill(~valid, -torch.inf).logsumexp(-1)
        share = (1 - (inside - logz).exp()).clamp_min(LEAST_REMAINDER)
        even = logz + share.log() - (unseen - valid.sum(-1)).clamp_min(1).to(logz.dtype).log()
        return torch.where(valid.any(-1), torch.minimum(even, last), 0.0)


def _look_up(listed: Tensor, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the wanted items (B, M) stand in a list (B, K), and their scores (B, M)."""
    if not listed.shape[1]:
        return torch.zeros_like(wanted, dtype=torch.bool), torch.zeros_like(wanted, dtype=scores.dtype)
    ordered, order = listed.sort(-1)
    place = torch.searchsorted(ordered, wanted.contiguous()).clamp_max(listed.shape[1] - 1)
    found = (ordered.gather(1, place) == wanted) & (wanted >= 0)
    return found, scores.gather(1, order.gather(1, place))
