"""Cross-entropy on sets that hold the student's own top items (RCE-KD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.objectives import candidates
from distill.objectives.candidates import (
    NOTHING,
    TeacherList,
    contains,
    draw_places,
    mean_over,
    student_top,
    teacher_list,
)
from distill.soft.target import SoftTarget

MOST = 50  # items below which an item of the student's list is preferred no further


def rce(
    scores: Tensor,
    target: SoftTarget,
    sampled: int = 50,
    pool: int = 200,
    spread: float = 10.0,
    beta: float = 5.0,
    temperature: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    """Two cross-entropies with the teacher: on the student's own top K, and on what the teacher would add to it.

    With Q_T and Q_S the top K of teacher and student, and I a draw of `sampled` items from the student's top `pool`,
    each with p proportional to exp((min(z, 50) + 1) / spread), z the number of Q_T's items that the student ranks below
    it:

    L = (1 - w) CE on Q_S + w CE on (I + (Q_T minus Q_S minus I)), w = exp(-beta |Q_T and I| / K),
    CE on C = -sum_{i in C} softmax_C(t / temperature)_i log softmax_C(s / temperature)_i.

    A cross-entropy on the teacher's items alone bounds ndcg only if they are the student's best too; these sets are
    closed under the student's ranking, or nearly so.

    References:
        "Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems" (RCE-KD), 2025.

    Requirements:
        Seen items masked with -inf in `scores`. Draws come from torch's global generator.

    Inputs:
        scores: Student scores (B, N).
        target: Uses `items`, `scores`, `weights` (they multiply the teacher's probabilities of its items), and for the
            student's items what `score_of` finds.
        sampled: L; 0 takes the whole pool.
        pool: m, at least K.
        spread: T.
        beta: How fast the second part fades as the teacher's items enter the student's list.
        temperature: Of both softmaxes.
        standardise: Scale the teacher's scores to deviation 1 over each set; off, for they are log-probabilities.

    Relations:
        For a student whose top K is the teacher's, the first part is the forward `listwise_kl` with tail="ignore".

    Returns:
        The mean over contexts that the teacher answered.

    Example:
        >>> target = SoftTarget(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[3.0]]))
        >>> float(rce(torch.tensor([[5.0, 1.0]]), target, sampled=1, pool=1))  # one item alone has nothing to learn
        0.0
    """
    given = teacher_list(scores, target, "rce")
    n_items, length = scores.shape[1], given.valid.sum(-1, keepdim=True)  # K of each context
    items, usable = student_top(scores, max(pool, given.items.shape[1]))
    best = _Candidates(
        student=scores.gather(1, items).masked_fill(~usable, 0.0),
        teacher=target.score_of(items, given.unseen).to(scores.dtype),
        weights=_weights_of(given, items, n_items),
    )
    own = usable & (torch.arange(items.shape[1], device=items.device) < length)  # Q_S
    place, drawn = _draw(given, best.student[:, :pool], usable[:, :pool], sampled, spread)
    in_drawn = contains(n_items, items.gather(1, place), drawn, given.items)
    added = given.valid & ~in_drawn & ~contains(n_items, items, own, given.items)
    second = best.at(place).and_also(_Candidates(given.student, given.teacher, given.weights))
    overlap = (given.valid & in_drawn).sum(-1).to(scores.dtype)
    weight = torch.exp(-beta * overlap / length[:, 0].clamp_min(1))
    first = _cross_entropy(best, own, temperature, standardise)
    loss = (1 - weight) * first + weight * _cross_entropy(
        second, torch.cat([drawn, added], 1), temperature, standardise
    )
    return mean_over(loss, given.answered)


@dataclass(frozen=True)
class _Candidates:
    """Scores of some items by both sides, and the items' weights; all (B, M)."""

    student: Tensor
    teacher: Tensor
    weights: Tensor

    def at(self, place: Tensor) -> _Candidates:
        return _Candidates(*(column.gather(1, place) for column in (self.student, self.teacher, self.weights)))

    def and_also(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            torch.cat([self.student, other.student], 1),
            torch.cat([self.teacher, other.teacher], 1),
            torch.cat([self.weights, other.weights], 1),
        )


def _cross_entropy(among: _Candidates, valid: Tensor, temperature: float, standardise: bool) -> Tensor:
    """CE on the valid ones of a context's candidates (B,)."""
    teacher = candidates.standardise(among.teacher, valid) if standardise else among.teacher
    logits = teacher / temperature + among.weights.clamp_min(1e-30).log()
    p = logits.masked_fill(~valid, NOTHING).softmax(-1)
    log_q = (among.student / temperature).masked_fill(~valid, NOTHING).log_softmax(-1)
    return -(p * log_q.masked_fill(~valid, 0.0)).sum(-1)


def _draw(given: TeacherList, student: Tensor, usable: Tensor, count: int, spread: float) -> tuple[Tensor, Tensor]:
    """I: places among the student's best (B, m), drawn the rather the more of the teacher's items stand below."""
    listed = given.student.detach().masked_fill(~given.valid, torch.inf).sort(-1).values
    below = torch.searchsorted(listed, student.detach().contiguous())  # z: teacher's items with a lower score
    log_weights = (below.clamp_max(MOST) + 1).to(student.dtype) / spread
    return draw_places(log_weights.masked_fill(~usable, -torch.inf), count)


def _weights_of(given: TeacherList, items: Tensor, n_items: int) -> Tensor:
    """Weights of the teacher's items wherever they stand among `items` (B, M); 1 for others."""
    table = torch.ones(len(items), n_items + 1, dtype=given.weights.dtype, device=items.device)
    table.scatter_(1, given.items.masked_fill(~given.valid, n_items), given.weights)
    return table[:, :n_items].gather(1, items)
