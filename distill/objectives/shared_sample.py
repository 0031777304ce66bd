"""Losses against one sample of items for the whole batch: scores and gradients in blocks that stay in the cache.

A matrix of scores of all contexts is never laid out. The mean over contexts is taken inside, so that the gradients of a
block are finished when its scores are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from distill.objectives.candidates import NOTHING

BLOCK = 2**19  # scores of a block: two megabytes
FAR = -80.0  # below the best score of a context; e^x is several times slower to compute where it underflows

# Scores (P, C), own scores (P,) and weights of the contexts (P,) to the losses (P,) and their gradients by the own
# scores (P,); the scores are overwritten with the gradients by them.
Rule = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Hiding(Protocol):
    """Which columns of a sample each context leaves out."""

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Ranges of contexts that cover the batch, of about `size` contexts."""

    def hide(self, scores: Tensor, first: int) -> None:
        """Lowers the scores (P, C) that contexts from `first` on leave out by 1e30 or more, in place."""

    @property
    def columns(self) -> Tensor:
        """All of them, one by one (B, C)."""


def softmax_against(query: Tensor, rows: Tensor, offset: Tensor, own: Tensor, hidden: Hiding, weight: Tensor) -> Tensor:
    """sum_b weight_b (log(e^own_b + sum_c e^(q_b . row_c + offset_c)) - own_b) over the columns that aren't hidden.

    Args:
        query: Queries (B, D).
        rows: Vectors of the sampled items (C, D).
        offset: What is added to their scores (C,).
        own: Scores of the labels (B,).
        hidden: Columns that a context leaves out.
        weight: Weights of the contexts (B,).

    Returns:
        A scalar.
    """
    if torch.compiler.is_compiling():
        return weight @ (torch.logaddexp(_scores(query, rows, offset, hidden).logsumexp(-1), own) - own)
    return _Against.apply(query, rows, offset, own, hidden, weight, _softmax)


def bpr_against(query: Tensor, rows: Tensor, offset: Tensor, own: Tensor, hidden: Hiding, weight: Tensor) -> Tensor:
    """sum_b weight_b sum_c -log sigmoid(own_b - q_b . row_c - offset_c) over the columns that aren't hidden.

    The arguments are those of `softmax_against`.
    """
    if torch.compiler.is_compiling():
        return weight @ softplus(_scores(query, rows, offset, hidden) - own[:, None]).sum(-1)
    return _Against.apply(query, rows, offset, own, hidden, weight, _bpr)


def _scores(query: Tensor, rows: Tensor, offset: Tensor, hidden: Hiding) -> Tensor:
    """Scores (B, C), for a compiler to make blocks of."""
    return torch.where(hidden.columns, NOTHING, torch.addmm(offset, query, rows.T))


def _softmax(scores: Tensor, own: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    top = torch.maximum(scores.amax(-1), own)
    of_own = (own - top).exp_()
    total = scores.sub_(top[:, None]).clamp_min_(FAR).exp_().sum(-1).add_(of_own)
    scores.mul_((weight / total)[:, None])
    return total.log().add_(top).sub_(own), of_own.div_(total).sub_(1).mul_(weight)


def _bpr(scores: Tensor, own: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    above = scores.sub_(own[:, None])
    loss = softplus(above).sum(-1)
    above.sigmoid_().mul_(weight[:, None])
    return loss, -above.sum(-1)


class _Against(torch.autograd.Function):
    """The weighted sum of a rule's losses; gradients are made with it and wait for the way back."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        rows: Tensor,
        offset: Tensor,
        own: Tensor,
        hidden: Hiding,
        weight: Tensor,
        rule: Rule,
    ) -> Tensor:
        of_query, of_own = torch.empty_like(query), torch.empty_like(own)
        of_rows, of_offset = torch.zeros_like(rows), torch.zeros_like(offset)
        loss = query.new_zeros(())
        with torch.autocast(query.device.type, enabled=False):
            for first, stop in hidden.blocks(BLOCK // max(1, len(rows))):
                at = slice(first, stop)
                scores = torch.addmm(offset, query[at], rows.T)
                hidden.hide(scores, first)
                losses, of_own[at] = rule(scores, own[at], weight[at])
                loss += losses @ weight[at]
                torch.mm(scores, rows, out=of_query[at])
                of_rows.addmm_(scores.T, query[at])
                of_offset += scores.sum(0)
        context.save_for_backward(of_query, of_rows, of_offset, of_own)
        return loss

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradients[0] * found for found in context.saved_tensors), None, None, None
