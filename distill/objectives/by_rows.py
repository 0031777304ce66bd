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
from distill.objectives.hard import bpr, draw_items, in_batch_softmax, sampled_softmax
from distill.soft.target import SoftTarget
from distill.windows import Seen, WindowSeen


@dataclass(frozen=True)
class RowScores:
    """A student's scores, made where they are asked for.

    Attributes:
        query: Queries (B, D).
        rows: Item vectors (M, D) of items (M,).
        bias: Item biases (N,).
        seen: What each context has seen.
    """

    query: Tensor
    rows: Callable[[Tensor], Tensor]
    bias: Tensor
    seen: Seen | WindowSeen

    def of(self, items: Tensor) -> Tensor:
        """Scores (B, J) of items (B, J), -inf where one was seen."""
        vectors = self.rows(items.flatten()).view(*items.shape, -1)
        scores = (self.query[:, None, :] * vectors).sum(-1) + self.bias[items]
        return scores.masked_fill(self.seen.holds(items), -torch.inf)

    def labels(self, target: SoftTarget) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B,), their scores (B,), and which contexts have one that they haven't seen (B,)."""
        label = target.label.clamp_min(0)
        own = self.of(label[:, None])[:, 0]
        labelled = (target.label >= 0) & ~own.isneginf()
        return label, own.masked_fill(~labelled, 0.0), labelled

    def hidden(self, items: Tensor, label: Tensor) -> Tensor:
        """Which of the different items (C,) are a context's label or seen by it (B, C)."""
        place = torch.full((len(self.bias) + 1,), -1, device=items.device)
        place[items] = torch.arange(len(items), device=items.device)
        out = self.seen.among(place, len(items))
        at = place[label]
        context = (at >= 0).nonzero()[:, 0]
        out[context, at[context]] = True
        return out


class _SampledSoftmax(torch.autograd.Function):
    """log(e^own + sum_c e^(q . row_c + offset_c)) - own, (B,), over the columns that aren't hidden."""

    @staticmethod
    def forward(context: Any, query: Tensor, rows: Tensor, offset: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
        logits = torch.addmm(offset, query, rows.T).masked_fill_(hidden, NOTHING)
        total = torch.logaddexp(logits.logsumexp(-1), own)
        context.save_for_backward(query, rows, own, total)
        context.logits = logits
        return total - own

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, rows, own, total = context.saved_tensors
        share = context.logits.sub_(total[:, None]).exp_().mul_(gradients[0][:, None])
        of_own = gradients[0] * ((own - total).exp() - 1)
        return share @ rows, share.T @ query, share.sum(0), of_own, None


class _SharedBPR(torch.autograd.Function):
    """mean_c -log sigmoid(own - q . row_c - offset_c), (B,), over the columns that aren't hidden; 0 where all are."""

    @staticmethod
    def forward(context: Any, query: Tensor, rows: Tensor, offset: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
        above = torch.addmm(offset, query, rows.T).sub_(own[:, None]).masked_fill_(hidden, NOTHING)
        count = (hidden.shape[1] - hidden.sum(-1)).clamp_min(1)
        context.save_for_backward(query, rows, count)
        context.above = above
        return softplus(above).sum(-1) / count

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, rows, count = context.saved_tensors
        share = context.above.sigmoid_().mul_((gradients[0] / count)[:, None])
        return share @ rows, share.T @ query, share.sum(0), -share.sum(-1), None


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
    loss = _SampledSoftmax.apply(scores.query, scores.rows(items), offset, own, scores.hidden(items, label))
    return mean_over(loss, labelled)


def bpr_by_rows(scores: RowScores, target: SoftTarget, negatives: int = 1, shared: bool = False) -> Tensor:
    """`hard.bpr`."""
    label, own, labelled = scores.labels(target)
    n_items = len(scores.bias)
    if shared:
        items = torch.randint(n_items, (negatives,), device=own.device).unique()
        hidden = scores.hidden(items, label)
        offset = scores.bias[items].clamp_min(NOTHING)
        loss = _SharedBPR.apply(scores.query, scores.rows(items), offset, own, hidden)
        return mean_over(loss, labelled & ~hidden.all(-1))
    drawn = torch.randint(n_items, (len(own), negatives), device=own.device)
    others = scores.of(drawn)
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
