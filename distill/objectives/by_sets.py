"""Losses on many labels of one query: each is what its namesake says of one label, with fewer products.

A label is compared with items that the user has nowhere: the other labels of its set are no negatives of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distill.errors import UserError
from distill.objectives.candidates import NOTHING, mean_over, mean_within
from distill.objectives.dots import scores_of_pairs
from distill.objectives.hard import bpr, cross_entropy, draw_items, sampled_softmax
from distill.soft.target import SoftTarget
from distill.windows.seen import FEW


@dataclass(frozen=True)
class SetScores:
    """A student's scores for sets of labels, made where they are asked for.

    Attributes:
        query: Queries (S, D).
        rows: Item vectors (M, D) of items (M,).
        table: All item vectors (N, D); None where rows alone are read.
        bias: Item biases (N,).
        label, row: Labels (F,) and the query of each, ascending.
        owned, owner: Every item of the history or the labels, and its query (O,).
    """

    query: Tensor
    rows: Callable[[Tensor], Tensor]
    table: Tensor | None
    bias: Tensor
    label: Tensor
    row: Tensor
    owned: Tensor
    owner: Tensor

    def pairs(self, row: Tensor, items: Tensor) -> Tensor:
        """Scores (P,) of items (P,) for the queries `row` (P,), ascending."""
        table, bias = self.table, self.bias
        if table is None:
            found, items = items.unique(return_inverse=True)
            table, bias = self.rows(found), bias[found]
        return scores_of_pairs(self.query, table.to(self.query.dtype), bias, row, items)

    def negative(self, items: Tensor) -> Tensor:
        """Which of the items (F, J) each label's user has nowhere."""
        n_items = len(self.bias)
        keys = self.row[:, None] * n_items + items
        if len(self.query) * n_items <= FEW:
            known = torch.zeros(len(self.query) * n_items, dtype=torch.uint8, device=keys.device)
            known.scatter_(0, self.owner * n_items + self.owned, 1)
            return known.index_select(0, keys.flatten()).view(keys.shape) == 0
        had = (self.owner * n_items + self.owned).sort().values
        at = torch.searchsorted(had, keys).clamp_max(max(0, len(had) - 1))
        return had[at] != keys

    def without_owned(self, scores: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores (S, C) of different items (C,), or of all, with what the user has at -1e30 or below."""
        column = self.owned
        if items is not None:
            place = torch.full((len(self.bias),), -1, device=items.device)
            place[items] = torch.arange(len(items), device=items.device)
            column = place[self.owned]
        inside = column >= 0
        hidden = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        hidden.view(-1)[self.owner[inside] * scores.shape[1] + column[inside]] = True
        return scores.masked_fill(hidden, NOTHING)

    def against(self, scores: Tensor, own: Tensor) -> Tensor:
        """Mean over the labels of -log(e^own / (e^own + sum_c e^scores_c)), scores (S, C) being those of negatives."""
        return softplus(scores.logsumexp(-1).index_select(0, self.row) - own).sum() / max(1, len(own))


def cross_entropy_by_sets(scores: SetScores, target: SoftTarget, logit_adjustment: float = 0.0) -> Tensor:
    """`hard.cross_entropy`."""
    table = scores.rows(torch.arange(len(scores.bias))) if scores.table is None else scores.table
    bias = scores.bias
    if logit_adjustment:
        assert target.popularity is not None
        bias = bias + logit_adjustment * (target.popularity + 0.5 / len(bias)).log()
    every = torch.addmm(bias.to(scores.query.dtype), scores.query, table.to(scores.query.dtype).T)
    own = every.view(-1).index_select(0, scores.row * len(bias) + scores.label)
    return scores.against(scores.without_owned(every), own)


def sampled_softmax_by_sets(
    scores: SetScores,
    target: SoftTarget,
    negatives: int = 512,
    proposal: Literal["uniform", "popularity"] = "uniform",
) -> Tensor:
    """`hard.sampled_softmax`; its draws are shared by the batch."""
    if negatives <= 0:
        return cross_entropy_by_sets(scores, target)
    drawn, share = draw_items(len(scores.bias), negatives, proposal, target, scores.query)
    items, times = drawn.unique(return_counts=True)
    offset = (scores.bias[items] + times.log() - (negatives * share[items]).log()).clamp_min(NOTHING)
    others = torch.addmm(offset.to(scores.query.dtype), scores.query, scores.rows(items).to(scores.query.dtype).T)
    return scores.against(scores.without_owned(others, items), scores.pairs(scores.row, scores.label))


def bpr_by_sets(scores: SetScores, target: SoftTarget, negatives: int = 1, shared: bool = False) -> Tensor:
    """`hard.bpr`."""
    n_items, device = len(scores.bias), scores.query.device
    if shared:
        items = torch.randint(n_items, (negatives,), device=device).unique()
        drawn = items.expand(len(scores.label), -1)
        own = scores.pairs(scores.row, scores.label)
        made = torch.addmm(scores.bias[items], scores.query, scores.rows(items).to(scores.query.dtype).T)
        others = made.index_select(0, scores.row)
    else:
        drawn = torch.randint(n_items, (len(scores.label), negatives), device=device)
        items = torch.cat([scores.label[:, None], drawn], 1)
        both = scores.pairs(scores.row.repeat_interleave(1 + negatives), items.flatten()).view(items.shape)
        own, others = both[:, 0], both[:, 1:]
    usable = scores.negative(drawn) & ~others.isneginf()  # what the student leaves out is no negative
    return mean_over(mean_within(softplus(others - own[:, None]), usable), usable.any(-1))


FORMS: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    cross_entropy: cross_entropy_by_sets,
    sampled_softmax: sampled_softmax_by_sets,
    bpr: bpr_by_sets,
}
NAMES = tuple(sorted(function.__name__ for function in FORMS))


def by_sets(function: Callable[..., Tensor] | None, name: str) -> Callable[..., Tensor]:
    """The form of a loss for many labels of a query.

    Raises:
        UserError: It has none.
    """
    form = None if function is None else FORMS.get(function)
    if form is None:
        raise UserError(f"The loss '{name}' has no form for halves (fit.order: halves); {', '.join(NAMES)} have one.")
    return form
