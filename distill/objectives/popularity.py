"""A teacher whose popular items are pushed down."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from distill.errors import UserError
from distill.soft.target import SoftTarget


def adjust(target: SoftTarget, eta: float) -> SoftTarget:
    """Teacher scores t - eta * log(events + 1), the lists sorted anew.

    For use inside strata: tilting a teacher's whole distribution costs accuracy.

    `popularity` holds shares. Events are counted in units of the rarest train item's, which is exact where some item
    has one event.

    References:
        docs/objectives.md, O8; the form is that of post-hoc logit adjustment, Menon et al. 2021, eq. 9.

    Args:
        target: Uses `popularity`. `logz` is exact with a live teacher; else the mass outside the top K is lowered as an
            average item is.
        eta: Strength; 0 returns the target itself.

    Raises:
        UserError: The target has no popularity, or no teacher.

    Example:
        >>> share, teacher = torch.tensor([0.9, 0.1]), torch.tensor([[1.0, 0.0]])
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), teacher, popularity=share)
        >>> adjust(target, 1.0).items.tolist()  # 1 - log 10 < 0 - log 2
        [[1, 0]]
    """
    if not eta:
        return target
    if target.popularity is None or target.items is None or target.scores is None:
        raise UserError("A popularity adjustment needs a teacher's scores and the items' popularity.")
    share = target.popularity
    one = share.masked_fill(share <= 0, torch.inf).min()
    penalty = eta * torch.log1p(share / one).to(target.scores.dtype)  # (N,)
    valid = target.items >= 0
    scores = torch.where(valid, target.scores - penalty[target.items.clamp_min(0)], target.scores)
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    found = replace(
        target,
        items=target.items.gather(1, order),
        scores=scores.gather(1, order),
        weights=None if target.weights is None else target.weights.gather(1, order),
        dense=None if target.dense is None else target.dense - penalty,
    )
    if target.tail_items is not None and target.tail_scores is not None:
        found = replace(found, tail_scores=target.tail_scores - penalty[target.tail_items.clamp_min(0)])
    return replace(found, logz=_normaliser(target, found, penalty))


def _normaliser(target: SoftTarget, found: SoftTarget, penalty: Tensor) -> Tensor | None:
    """logz after the adjustment, at each temperature (B, T)."""
    if found.dense is not None:
        return torch.stack([(found.dense / t).logsumexp(-1) for t in target.temperatures], 1)
    if target.logz is None:
        return None
    assert (
        target.items is not None and target.scores is not None and found.items is not None and found.scores is not None
    )
    columns = []
    for place, temperature in enumerate(target.temperatures):
        logz = target.logz[:, place]
        before = (target.scores / temperature).masked_fill(target.items < 0, -torch.inf).logsumexp(-1)
        after = (found.scores / temperature).masked_fill(found.items < 0, -torch.inf).logsumexp(-1)
        outside = (1 - (before - logz).exp()).clamp_min(1e-6).log() + (-penalty / temperature).exp().mean().log()
        columns.append(torch.logaddexp(after.to(logz.dtype), logz + outside))
    return torch.stack(columns, 1)
