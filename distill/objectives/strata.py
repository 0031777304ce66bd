"""Any response loss inside each popularity stratum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from distill.errors import UserError
from distill.soft.target import SoftTarget


def within_strata(loss: Callable[[Tensor, SoftTarget], Tensor], scores: Tensor, target: SoftTarget) -> Tensor:
    """The mean over popularity strata of a loss on that stratum's items alone.

    Inside a stratum popularity explains little of the order, so the teacher's view of the tail isn't drowned by its
    view of the head. Each stratum with at least one answered context (a teacher's item or a label in it) weighs the
    same.

    A stratum is handed over as a catalogue of its own, its items renumbered: to a loss, other items don't exist. That
    is the same as masking them with -inf, at the cost of one catalogue instead of one for each stratum.

    References:
        Chen et al. 2023, "Unbiased Knowledge Distillation for Recommendation" (UnKD), section 4, for any loss.

    Args:
        loss: `f(scores (B, N'), target) -> scalar`.
        scores: Student scores (B, N), seen items masked with -inf.
        target: Uses `strata`. The normaliser of a stratum is known with a live teacher; else the teacher's mass outside
            its top K is taken to be spread evenly over the items outside it.

    Returns:
        The mean over strata; 0 where none is answered.

    Raises:
        UserError: The target has no strata.

    Example:
        >>> from distill.objectives.hard import cross_entropy
        >>> target = SoftTarget(torch.tensor([1]), strata=torch.tensor([0, 1, 1, 1]))
        >>> round(float(within_strata(cross_entropy, torch.zeros(1, 4), target)), 4)  # log 3, not log 4
        1.0986
    """
    if target.strata is None:
        raise UserError("A loss inside strata needs the items' popularity strata, and the target has none.")
    unseen = (~scores.isneginf()).sum(-1)
    number = torch.full((len(target.strata) + 1,), -1, device=scores.device)  # the last is for item -1
    parts = []
    for group in range(int(target.strata.max()) + 1):
        columns = (target.strata == group).nonzero()[:, 0]
        number[:] = -1
        number[columns] = torch.arange(len(columns), device=scores.device)
        inside = scores.index_select(1, columns)
        part = _restrict(target, columns, number, unseen, (~inside.isneginf()).sum(-1))
        if bool((part.label >= 0).any()) or (part.items is not None and bool((part.items >= 0).any())):
            parts.append(loss(inside, part))
    return torch.stack(parts).mean() if parts else scores[:0].sum()


def _restrict(target: SoftTarget, columns: Tensor, number: Tensor, unseen: Tensor, unseen_inside: Tensor) -> SoftTarget:
    """The target of a stratum: items get their place among `columns`, others become -1 and come last."""
    part = replace(
        target,
        label=number[target.label],
        strata=torch.zeros_like(columns),
        popularity=None if target.popularity is None else target.popularity[columns],
        dense=None if target.dense is None else target.dense.index_select(1, columns),
        tail_items=None if target.tail_items is None else number[target.tail_items],
    )
    if target.items is None or target.scores is None:
        return part
    items = number[target.items]
    order = (items < 0).to(torch.uint8).argsort(dim=1, stable=True)
    part = replace(
        part,
        items=items.gather(1, order),
        scores=target.scores.gather(1, order),
        weights=None if target.weights is None else target.weights.gather(1, order),
    )
    return replace(part, logz=_normaliser(target, part, unseen, unseen_inside))


def _normaliser(target: SoftTarget, part: SoftTarget, unseen: Tensor, unseen_inside: Tensor) -> Tensor | None:
    """logz of a stratum at each temperature (B, T): exact with a whole row, else its part of the rest by number."""
    if part.dense is not None:
        return torch.stack([(part.dense / t).logsumexp(-1) for t in target.temperatures], 1)
    if target.logz is None:
        return None
    assert target.items is not None and target.scores is not None and part.items is not None and part.scores is not None
    listed, inside = target.items >= 0, part.items >= 0
    outside = (unseen - listed.sum(-1)).clamp_min(1)
    outside_here = (unseen_inside - inside.sum(-1)).clamp_min(0)
    columns = []
    for place, temperature in enumerate(target.temperatures):
        logz = target.logz[:, place]
        everywhere = (target.scores / temperature).masked_fill(~listed, -torch.inf).logsumexp(-1)
        here = (part.scores / temperature).masked_fill(~inside, -torch.inf).logsumexp(-1)
        share = (1 - (everywhere - logz).exp()).clamp_min(1e-6) * outside_here / outside
        columns.append(torch.logaddexp(here.to(logz.dtype), logz + share.log()))
    return torch.stack(columns, 1)
