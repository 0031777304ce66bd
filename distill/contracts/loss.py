"""The contract of a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from distill.contracts.checks import require, require_close
from distill.soft.target import SoftTarget

N_ITEMS = 23
LossFunction = Callable[[Tensor, SoftTarget], Tensor]


def check_loss(loss: LossFunction, n_items: int = N_ITEMS, k: int = 6) -> None:
    """The contract of a loss `f(scores (B, N), target: SoftTarget) -> scalar`.

    Args:
        loss: The function, its own settings bound (functools.partial).
        n_items: Catalogue size to check with.
        k: Length of the teacher's lists.

    Raises:
        AssertionError: Not a finite scalar; wrong or infinite gradients; a gradient on masked items; a dependence on
            padding or on how items are numbered; not a mean over contexts; not finite where no context has a label; not
            lower for a student that scores as the teacher does than for one that scores the opposite way.
    """
    scores, teacher, seen, target = _problem(n_items, k)
    masked = scores.masked_fill(seen, -torch.inf)
    value = loss(masked, target)
    require(value.ndim == 0, f"the loss has shape {tuple(value.shape)}, expected a scalar")
    require(bool(torch.isfinite(value)), f"the loss is {float(value)} where seen items are masked with -inf")
    _check_loss_gradient(loss, scores, seen, target)
    _check_direction(loss, teacher, seen, target)
    _check_order(loss, masked, target, value)
    _check_padding(loss, masked, target, value)
    _check_mean(loss, masked, target, value)
    unlabelled = replace(target, label=torch.full_like(target.label, -1))
    leaf = scores.clone().requires_grad_()
    without = loss(leaf.masked_fill(seen, -torch.inf), unlabelled)
    require(bool(torch.isfinite(without)), "the loss isn't finite on a batch without a single label")
    without.backward()
    require(leaf.grad is not None and bool(torch.isfinite(leaf.grad).all()), "no finite gradient without labels")


def _problem(n_items: int, k: int, rows: int = 4) -> tuple[Tensor, Tensor, Tensor, SoftTarget]:
    """Student scores and teacher scores (B, N) in float64, seen items (B, N), and a target of the rest's top k."""
    rng = torch.Generator().manual_seed(7)
    scores = torch.randn(rows, n_items, generator=rng, dtype=torch.float64)
    seen = torch.rand(rows, n_items, generator=rng) < 0.2
    teacher = 2 * torch.randn(rows, n_items, generator=rng, dtype=torch.float64)
    unseen = teacher.masked_fill(seen, -torch.inf)
    best = unseen.topk(k, dim=1)
    popularity = torch.rand(n_items, generator=rng, dtype=torch.float64)
    label = best.indices[:, 1].clone()
    label[-1] = -1
    return (
        scores,
        teacher,
        seen,
        SoftTarget(
            label=label,
            items=best.indices,
            scores=best.values,
            logz=unseen.logsumexp(1, keepdim=True),
            strata=torch.arange(n_items) % 2,
            popularity=popularity / popularity.sum(),
        ),
    )


def _check_loss_gradient(loss: LossFunction, scores: Tensor, seen: Tensor, target: SoftTarget) -> None:
    def of_scores(free: Tensor) -> Tensor:
        return loss(free.masked_fill(seen, -torch.inf), target)

    leaf = scores.clone().requires_grad_()
    of_scores(leaf).backward()
    gradient = leaf.grad
    require(gradient is not None, "the loss has no gradient with regard to the scores")
    assert gradient is not None
    require(bool(torch.isfinite(gradient).all()), "a gradient is NaN or infinite where seen items are masked with -inf")
    require(not bool(gradient[seen].any()), "a masked item has a gradient")
    require(
        torch.autograd.gradcheck(of_scores, (scores.clone().requires_grad_(),), raise_exception=False),
        "the gradient differs from finite differences (in float64: don't cast the student's scores down)",
    )


def _check_direction(loss: LossFunction, teacher: Tensor, seen: Tensor, target: SoftTarget) -> None:
    """The labels are among the teacher's best, so labels and teacher agree on which student is the better one."""
    alike, opposite = (float(loss(s.masked_fill(seen, -torch.inf), target)) for s in (teacher, -teacher))
    require(
        alike < opposite,
        f"a student that scores as the teacher does has the loss {alike:.4g}, its opposite {opposite:.4g}",
    )


def _check_order(loss: LossFunction, masked: Tensor, target: SoftTarget, value: Tensor) -> None:
    """Numbering the items otherwise changes nothing."""
    assert target.items is not None and target.scores is not None
    assert target.strata is not None and target.popularity is not None
    order = torch.randperm(masked.shape[1], generator=torch.Generator().manual_seed(3))
    number = torch.argsort(order)  # new number of each old item
    renumbered = replace(
        target,
        label=torch.where(target.label >= 0, number[target.label.clamp_min(0)], -1),
        items=number[target.items],
        strata=target.strata[order],
        popularity=target.popularity[order],
    )
    require_close(loss(masked[:, order], renumbered), value, "the loss depends on how items are numbered")


def _check_padding(loss: LossFunction, masked: Tensor, target: SoftTarget, value: Tensor) -> None:
    assert target.items is not None and target.scores is not None
    rows = len(masked)
    padded = replace(
        target,
        items=torch.cat([target.items, torch.full((rows, 3), -1)], 1),
        scores=torch.cat([target.scores, torch.full((rows, 3), -6e4, dtype=target.scores.dtype)], 1),
    )
    require_close(loss(masked, padded), value, "the loss changes when the teacher's list is padded with item -1")


def _check_mean(loss: LossFunction, masked: Tensor, target: SoftTarget, value: Tensor) -> None:
    """A batch twice over has the same loss: without a mean, weights wouldn't carry over between batch sizes."""
    assert target.items is not None and target.scores is not None and target.logz is not None
    order = [*range(len(masked) - 1, -1, -1), *range(len(masked))]
    twice = replace(
        target,
        label=target.label[order],
        items=target.items[order],
        scores=target.scores[order],
        logz=target.logz[order],
    )
    require_close(loss(masked[order], twice), value, "the loss isn't a mean over contexts")
