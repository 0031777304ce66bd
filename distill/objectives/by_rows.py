"""Losses on labels from the rows they need: never a score of the whole catalogue.

Each is the same loss as its namesake in `distill.objectives.hard`, with the same draws, and takes a `RowScores` in
place of the matrix of scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distill.objectives.candidates import NOTHING, mean_over, mean_within
from distill.objectives.dots import scores_of
from distill.objectives.hard import bpr, draw_items, in_batch_softmax, sampled_softmax
from distill.objectives.shared_sample import bpr_against, softmax_against
from distill.soft.target import SoftTarget
from distill.windows.seen import HiddenOnes, HiddenSince, Seen, WindowSeen


@dataclass(frozen=True)
class RowScores:
    """A student's scores, made where they are asked for.

    Attributes:
        query: Queries (B, D).
        rows: Item vectors (M, D) of items (M,).
        table: All item vectors (N, D); None where rows alone are read.
        bias: Item biases (N,).
        seen: What each context has seen.
    """

    query: Tensor
    rows: Callable[[Tensor], Tensor]
    table: Tensor | None
    bias: Tensor
    seen: Seen | WindowSeen

    def of(self, items: Tensor) -> Tensor:
        """Scores (B, J) of items (B, J), -inf where one was seen."""
        return self._all(items).masked_fill(self.seen.holds(items), -torch.inf)

    def labels_and(self, others: Tensor, target: SoftTarget) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `labels` gives, and the scores (B, J) of other items (B, J), -inf where one was seen."""
        label = target.label.clamp_min(0)
        both = self._all(torch.cat([label[:, None], others], 1))
        hidden = both[:, 1:].masked_fill(self.seen.holds(others), -torch.inf)
        return *self._usable(both[:, 0], label, target), hidden

    def labels(self, target: SoftTarget) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B,), their scores (B,), and which contexts have one that they haven't seen (B,)."""
        label = target.label.clamp_min(0)
        return self._usable(self._all(label[:, None])[:, 0], label, target)

    def _usable(self, own: Tensor, label: Tensor, target: SoftTarget) -> tuple[Tensor, Tensor, Tensor]:
        labelled = (target.label >= 0) & ~own.isneginf() & ~self.seen.holds_labels(label)
        return label, own.masked_fill(~labelled, 0.0), labelled

    def _all(self, items: Tensor) -> Tensor:
        """Scores (B, J) of items (B, J), seen or not."""
        if self.table is not None and not torch.compiler.is_compiling():
            return scores_of(self.query, self.table.to(self.query.dtype), self.bias, items)
        vectors = self.rows(items.flatten()).view(*items.shape, -1)
        return (self.query[:, None, :] * vectors).sum(-1) + self.bias[items]

    def hidden(self, items: Tensor, label: Tensor) -> HiddenOnes | HiddenSince:
        """Which of the different items (C,) are a context's label or seen by it."""
        place = torch.full((len(self.bias) + 1,), -1, device=items.device)
        place[items] = torch.arange(len(items), device=items.device)
        return self.seen.among(place, len(items), label)


def even_over(counted: Tensor) -> Tensor:
    """Weights (B,) of a mean over the contexts that count (B,); zeros where none does."""
    return counted / counted.sum().clamp_min(1)


def sampled_softmax_by_rows(
    scores: RowScores,
    target: SoftTarget,
    negatives: int = 512,
    proposal: Literal["uniform", "popularity"] = "uniform",
) -> Tensor:
    """`hard.sampled_softmax`; an item that is drawn several times is computed once."""
    drawn, share = draw_items(len(scores.bias), negatives, proposal, target, scores.query)
    items, times = drawn.unique(return_counts=True)
    return _softmax(scores, target, items, times.log() - (negatives * share[items]).log())


def in_batch_softmax_by_rows(scores: RowScores, target: SoftTarget) -> Tensor:
    """`hard.in_batch_softmax`."""
    assert target.popularity is not None
    items, times = target.label[target.label >= 0].unique(return_counts=True)
    share = target.popularity.to(scores.query.dtype)[items].clamp_min(torch.finfo(torch.float32).tiny)
    return _softmax(scores, target, items, times.log() - (times.sum() * share).log())


def _softmax(scores: RowScores, target: SoftTarget, items: Tensor, correction: Tensor) -> Tensor:
    label, own, labelled = scores.labels(target)
    offset = (scores.bias[items] + correction).clamp_min(NOTHING)
    hidden = scores.hidden(items, label)
    return softmax_against(scores.query, scores.rows(items), offset, own, hidden, even_over(labelled))


def bpr_by_rows(scores: RowScores, target: SoftTarget, negatives: int = 1, shared: bool = False) -> Tensor:
    """`hard.bpr`."""
    n_items = len(scores.bias)
    if shared:
        label, own, labelled = scores.labels(target)
        items = torch.randint(n_items, (negatives,), device=own.device).unique()
        hidden = scores.hidden(items, label)
        offset = scores.bias[items].clamp_min(NOTHING)
        usable = len(items) - hidden.counts()
        weight = even_over(labelled & (usable > 0)) / usable.clamp_min(1)
        return bpr_against(scores.query, scores.rows(items), offset, own, hidden, weight)
    drawn = torch.randint(n_items, (len(scores.query), negatives), device=scores.query.device)
    label, own, labelled, others = scores.labels_and(drawn, target)
    usable = ~others.isneginf() & ~((drawn == label[:, None]) & labelled[:, None])
    others = others.masked_fill(~usable, 0.0)
    return mean_over(mean_within(softplus(others - own[:, None]), usable), labelled & usable.any(-1))


FORMS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    sampled_softmax: sampled_softmax_by_rows,
    in_batch_softmax: in_batch_softmax_by_rows,
    bpr: bpr_by_rows,
}


def by_rows(function: Callable[..., Tensor] | None, settings: dict[str, Any]) -> Callable[..., Tensor] | None:
    """The form of a loss that needs rows alone; None where it has none, or `negatives: 0` asks for the catalogue."""
    wanted = settings.get("negatives", 1)
    whole = isinstance(wanted, int) and wanted <= 0
    return None if function is None or whole else FORMS.get(function)
