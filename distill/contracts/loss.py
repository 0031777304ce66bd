"""The contract of a loss on scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from distill.contracts.checks import require, require_close
from distill.soft.target import SoftTarget

N_ITEMS = 23
LossFunction = Callable[[Tensor, SoftTarget], Tensor]
ROW_FIELDS = ("label", "items", "scores", "logz", "tail_items", "tail_scores", "tail_logq", "user")
TEMPERATURES = (1.0, 0.5, 2.0)
LIMIT = 4.5  # standard errors by which two means of a random loss may differ


def check_loss(loss: LossFunction, n_items: int = N_ITEMS, k: int = 6, draws: int = 200) -> None:
    """The contract of a loss `f(scores (B, N), target: SoftTarget) -> scalar`.

    A loss may draw from torch's global generator, and from nothing else. The generator is seeded before each call; what
    holds for a loss without chance value by value must hold for one with it in the mean over `draws` seeds.

    Args:
        loss: The function, its own settings bound (functools.partial).
        n_items: Catalogue size to check with.
        k: Length of the teacher's lists.
        draws: Seeds over which a random loss is averaged.

    Raises:
        AssertionError: Not a finite scalar; another value from the same seed; wrong or infinite gradients; a gradient
            on masked items; a dependence on padding or on how items are numbered; not a mean over contexts; not finite
            where no context has a label, or where one has no answer and no item left; not lower for a student that
            scores as the teacher does than for one that scores the opposite way.
    """
    with torch.random.fork_rng(devices=[]):
        scores, teacher, seen, target = _problem(n_items, k)
        masked = scores.masked_fill(seen, -torch.inf)
        value = seeded(loss)(masked, target)
        require(value.ndim == 0, f"the loss has shape {tuple(value.shape)}, expected a scalar")
        require(bool(torch.isfinite(value)), f"the loss is {float(value)} where seen items are masked with -inf")
        require(
            bool(seeded(loss)(masked, target) == value),
            "the loss gives two values from one seed: draw from torch's global generator alone",
        )
        same = _Same(loss, draws if is_random(loss, masked, target) else 1)
        _check_loss_gradient(seeded(loss), scores, seen, target)
        _check_direction(same, teacher, seen, target)
        _check_order(same, masked, target)
        _check_padding(same, masked, target)
        _check_mean(same, masked, target)
        _check_gaps(seeded(loss), scores, seen, target)


def seeded(loss: LossFunction, seed: int = 0) -> LossFunction:
    """The loss with torch's global generator seeded before each call."""

    def call(scores: Tensor, target: SoftTarget) -> Tensor:
        torch.manual_seed(seed)
        return loss(scores, target)

    return call


def is_random(loss: LossFunction, scores: Tensor, target: SoftTarget) -> bool:
    """Whether the value differs between seeds."""
    with torch.no_grad():
        return len({float(seeded(loss, seed)(scores, target)) for seed in range(8)}) > 1


class _Same:
    """Compares values of a loss: one by one, or means over seeds for a loss that draws."""

    def __init__(self, loss: LossFunction, draws: int) -> None:
        self.loss, self.draws = loss, draws

    @torch.no_grad()
    def values(self, scores: Tensor, target: SoftTarget, first_seed: int = 0) -> Tensor:
        """One value a seed (draws,)."""
        seeds = range(first_seed, first_seed + self.draws)
        return torch.stack([seeded(self.loss, seed)(scores, target) for seed in seeds]).double()

    def require(self, one: tuple[Tensor, SoftTarget], other: tuple[Tensor, SoftTarget], message: str) -> None:
        """Requires the same value for both, or the same mean within its error."""
        a, b = self.values(*one), self.values(*other, first_seed=self.draws if self.draws > 1 else 0)
        if self.draws == 1:
            require_close(b, a, message)
            return
        error = float((a.var() / self.draws + b.var() / self.draws).sqrt())
        apart = abs(float(a.mean() - b.mean()))
        require(
            apart <= LIMIT * error + 1e-6,
            f"{message}: means of {self.draws} draws are {apart:.3g} apart, with an error of {error:.2g}",
        )


def _problem(n_items: int, k: int, rows: int = 4, tail: int = 5) -> tuple[Tensor, Tensor, Tensor, SoftTarget]:
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
    others = (~seen).scatter(1, best.indices, False)
    drawn = torch.multinomial(others.double(), tail, replacement=True, generator=rng)
    target = SoftTarget(
        label=label,
        items=best.indices,
        scores=best.values,
        logz=torch.stack([(unseen / t).logsumexp(1) for t in TEMPERATURES], 1),
        temperatures=TEMPERATURES,
        tail_items=drawn,
        tail_scores=teacher.gather(1, drawn),
        tail_logq=-others.sum(1, keepdim=True).double().log().expand(-1, tail),
        user=torch.arange(rows),
        strata=torch.arange(n_items) % 2,
        popularity=popularity / popularity.sum(),
    )
    return scores, teacher, seen, target


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


def _check_direction(same: _Same, teacher: Tensor, seen: Tensor, target: SoftTarget) -> None:
    """The labels are among the teacher's best, so labels and teacher agree on which student is the better one."""
    students = (s.masked_fill(seen, -torch.inf) for s in (teacher, -teacher))
    alike, opposite = (float(same.values(student, target).mean()) for student in students)
    require(
        alike < opposite,
        f"a student that scores as the teacher does has the loss {alike:.4g}, its opposite {opposite:.4g}",
    )


def _check_order(same: _Same, masked: Tensor, target: SoftTarget) -> None:
    """Numbering the items otherwise changes nothing."""
    assert target.items is not None and target.tail_items is not None
    assert target.strata is not None and target.popularity is not None
    order = torch.randperm(masked.shape[1], generator=torch.Generator().manual_seed(3))
    number = torch.argsort(order)  # new number of each old item
    renumbered = replace(
        target,
        label=torch.where(target.label >= 0, number[target.label.clamp_min(0)], -1),
        items=number[target.items],
        tail_items=number[target.tail_items],
        strata=target.strata[order],
        popularity=target.popularity[order],
    )
    same.require((masked, target), (masked[:, order], renumbered), "the loss depends on how items are numbered")


def _check_padding(same: _Same, masked: Tensor, target: SoftTarget) -> None:
    assert target.items is not None and target.scores is not None
    rows = len(masked)
    padded = replace(
        target,
        items=torch.cat([target.items, torch.full((rows, 3), -1)], 1),
        scores=torch.cat([target.scores, torch.full((rows, 3), -6e4, dtype=target.scores.dtype)], 1),
    )
    same.require((masked, target), (masked, padded), "the loss changes when the teacher's list is padded with item -1")


def _check_mean(same: _Same, masked: Tensor, target: SoftTarget) -> None:
    """A batch twice over has the same loss: without a mean, weights wouldn't carry over between batch sizes."""
    order = [*range(len(masked) - 1, -1, -1), *range(len(masked))]
    twice = replace(target, **{name: getattr(target, name)[order] for name in ROW_FIELDS})
    same.require((masked, target), (masked[order], twice), "the loss isn't a mean over contexts")


def _check_gaps(loss: LossFunction, scores: Tensor, seen: Tensor, target: SoftTarget) -> None:
    """No labels at all; and one context without an answer, all of whose items are masked."""
    unlabelled = replace(target, label=torch.full_like(target.label, -1))
    _require_finite(loss, scores, seen, unlabelled, "on a batch without a single label")
    first = torch.arange(len(scores)) == 0
    assert target.items is not None and target.scores is not None and target.logz is not None
    unanswered = replace(
        target,
        label=target.label.masked_fill(first, -1),
        items=target.items.masked_fill(first[:, None], -1),
        scores=target.scores.masked_fill(first[:, None], -6e4),
        logz=target.logz.masked_fill(first[:, None], -torch.inf),
    )
    _require_finite(loss, scores, seen | first[:, None], unanswered, "where a context has no answer and no item left")


def _require_finite(loss: LossFunction, scores: Tensor, seen: Tensor, target: SoftTarget, where: str) -> None:
    leaf = scores.clone().requires_grad_()
    value = loss(leaf.masked_fill(seen, -torch.inf), target)
    require(bool(torch.isfinite(value)), f"the loss isn't finite {where}")
    value.backward()
    require(leaf.grad is not None and bool(torch.isfinite(leaf.grad).all()), f"no finite gradient {where}")
