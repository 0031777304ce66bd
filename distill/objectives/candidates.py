"""What response losses share: the teacher's list beside the student's scores, draws of items, means over contexts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.errors import UserError
from distill.objectives.reading import picked
from distill.soft.target import SoftTarget

NOTHING = -1e30  # a score without weight in any softmax; finite, so that rows of nothing else stay free of nan


@dataclass(frozen=True)
class TeacherList:
    """The teacher's list of a batch, best first, with the student's scores of the same items.

    Attributes:
        items: Items (B, K); 0 where there is none.
        teacher: Teacher scores in the student's type (B, K); 0 where there is none.
        student: Student scores (B, K); 0 where there is none.
        valid: Where there is an item that the student doesn't mask (B, K).
        weights: Weight of each item (B, K); 1 where the target gives none.
        scores: All student scores (B, N), seen items masked with -inf.
    """

    items: Tensor
    teacher: Tensor
    student: Tensor
    valid: Tensor
    weights: Tensor
    scores: Tensor

    @property
    def unseen(self) -> Tensor:
        """Number of items that the student doesn't mask (B,)."""
        return (~self.scores.isneginf()).sum(-1)

    @property
    def answered(self) -> Tensor:
        """Contexts of which the teacher said anything (B,)."""
        return self.valid.any(-1)

    @property
    def rank(self) -> Tensor:
        """1 for the best item, 2 for the next, ... (K,)."""
        return torch.arange(1, self.items.shape[1] + 1, device=self.items.device)

    def first(self, count: int) -> TeacherList:
        """The best `count` of each list."""
        return self.at(
            torch.arange(min(count, self.items.shape[1]), device=self.items.device).expand(len(self.items), -1)
        )

    def at(self, place: Tensor) -> TeacherList:
        """The items at the places (B, C) of the list."""
        columns = (self.items, self.teacher, self.student, self.valid, self.weights)
        items, teacher, student, valid, weights = (column.gather(1, place) for column in columns)
        return TeacherList(items, teacher, student, valid, weights, self.scores)


def teacher_list(scores: Tensor, target: SoftTarget, loss: str) -> TeacherList:
    """The teacher's list beside the student's masked scores (B, N).

    Raises:
        UserError: The target has no teacher; `loss` is named.
    """
    if target.items is None or target.scores is None:
        raise UserError(
            f"The loss {loss} needs a teacher's scores; 'control_losses' trains without a teacher. Move it to 'losses'."
        )
    items = target.items.clamp_min(0)
    student = picked(scores, target.items)
    valid = (target.items >= 0) & ~student.isneginf()
    weights = torch.ones_like(student) if target.weights is None else target.weights.to(scores.dtype)
    return TeacherList(
        items=items,
        teacher=target.scores.to(scores.dtype).masked_fill(~valid, 0.0),
        student=student.masked_fill(~valid, 0.0),
        valid=valid,
        weights=weights.detach(),
        scores=scores,
    )


def mean_over(loss: Tensor, counted: Tensor) -> Tensor:
    """Mean of the losses (B,) of the contexts that count (B,); 0, with a gradient of 0, where none does."""
    return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp_min(1)


def mean_within(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, ...) over the valid entries of each context (B,); 0 where there are none."""
    within = tuple(range(1, values.dim()))
    return torch.where(valid, values, 0.0).sum(within) / valid.sum(within).clamp_min(1)


def standardise(values: Tensor, valid: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the valid entries of each row of (B, C); 0 elsewhere."""
    count = valid.sum(-1, keepdim=True).clamp_min(1)
    kept = values.masked_fill(~valid, 0.0)
    centred = (kept - kept.sum(-1, keepdim=True) / count).masked_fill(~valid, 0.0)
    deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp_min(1e-6)


def contains(n_items: int, listed: Tensor, valid: Tensor, wanted: Tensor) -> Tensor:
    """Which of the items (B, M) stand among the valid ones of a list (B, K)."""
    marked = torch.zeros(len(listed), n_items + 1, dtype=torch.bool, device=listed.device)
    marked.scatter_(1, listed.masked_fill(~valid, n_items), True)
    return marked[:, :n_items].gather(1, wanted)


def student_top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The student's own best items (B, M), best first, and which of them aren't masked; M is at most N."""
    scores = scores.detach()
    items = _best(scores, min(count, scores.shape[1]))
    kept, order = scores.gather(1, items).sort(dim=-1, descending=True, stable=True)
    return items.gather(1, order), ~kept.isneginf()


def draw_negatives(scores: Tensor, count: int, listed: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Items drawn uniformly from those that are neither masked nor among the valid ones of a list (B, K).

    Returns:
        Items (B, count) and which of them may be used: a draw that hits a masked or listed item is not repeated.
    """
    rows, n_items = scores.shape
    drawn = torch.randint(n_items, (rows, count), device=scores.device)
    usable = ~scores.detach().gather(1, drawn).isneginf() & ~contains(n_items, listed, valid, drawn)
    return drawn, usable


def draw_places(log_weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places drawn without replacement, in proportion to exp(log_weights) (B, K); 0 or K and more draws take them all.

    Returns:
        Places (B, C), in ascending order, and which of them have a weight above 0.
    """
    total = log_weights.shape[1]
    if count <= 0 or count >= total:
        place = torch.arange(total, device=log_weights.device).expand(len(log_weights), -1)
    else:
        gumbel = -(-torch.rand_like(log_weights).clamp(1e-20, 1 - 1e-7).log()).log()
        place = _best(log_weights + gumbel, count).sort(-1).values
    return place, ~log_weights.gather(1, place).isneginf()


def estimated_rank(scores: Tensor, wanted: Tensor, samples: int) -> Tensor:
    """The rank (1 is best) of student scores (B, K) in the catalogue: 1 + N * (share of sampled items scored above).

    The sample, without replacement, is the same for all contexts; 0 counts over the whole catalogue.
    """
    scores, n_items = scores.detach(), scores.shape[1]
    if 0 < samples < n_items:
        scores = scores.index_select(1, torch.randperm(n_items, device=scores.device)[:samples])
    ordered = scores.sort(-1).values
    not_above = torch.searchsorted(ordered, wanted.detach().contiguous(), right=True)
    return 1 + n_items * (1 - not_above.to(scores.dtype) / scores.shape[1])


def _best(values: Tensor, count: int) -> Tensor:
    """Places (B, count) of the greatest values of each row (B, N), in no order.

    On a CPU, numpy's selection takes a tenth of the time of `topk`.
    """
    if values.device.type != "cpu" or count == values.shape[1]:
        return values.topk(count, dim=-1, sorted=False).indices
    first = values.shape[1] - count
    return torch.from_numpy(np.argpartition(values.detach().numpy(), first, axis=1)[:, first:].copy())
