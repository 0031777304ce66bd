"""In-batch contrastive learning over all processes of a launch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional


class _Gather(torch.autograd.Function):
    """Rows of every process, in rank order, where each process goes on to compute the same loss from them.

    All processes then hold the same gradient of the gathered rows, so the backward pass needs no communication: each
    takes its own slice. The factor `world` undoes the averaging of gradients over processes by DDP and DeepSpeed.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        start = distributed.get_rank() * context.rows
        return gradients[0][start : start + context.rows] * distributed.get_world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """(B, ...) of each process to (W * B, ...), differentiable; every process must compute the same loss from it."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class Side(NamedTuple):
    """One side of some pairs.

    Attributes:
        vectors: Unit vectors (B, d).
        item: Item indices (B,).
        log_popularity: Log-probability of meeting each item in a batch, (B,).
    """

    vectors: Tensor
    item: Tensor
    log_popularity: Tensor

    def take(self, rows: Tensor) -> Side:
        """The given rows (C,)."""
        return Side(*(column[rows] for column in self))

    def gather(self) -> Side:
        """The rows of all processes."""
        return Side(*map(gather_rows, self))


class Hard(NamedTuple):
    """Negatives of each anchor's own.

    Attributes:
        vectors: Unit vectors (B, H, d).
        log_popularity: Log-probability of meeting each in a batch, (B, H).
    """

    vectors: Tensor
    log_popularity: Tensor

    def take(self, rows: Tensor) -> Hard:
        """The given rows (B, H) of vectors (M, d)."""
        return Hard(*(column[rows] for column in self))

    def gather(self) -> Hard:
        """The rows of all processes."""
        return Hard(*map(gather_rows, self))

    def logits(self, anchors: Tensor, temperature: float) -> Tensor:
        """Corrected logits (B, H) of anchors (B, d)."""
        cosines = torch.einsum("bd,bhd->bh", anchors.float(), self.vectors.float())
        return cosines / temperature - self.log_popularity


def info_nce(
    left: Side,
    right: Side,
    temperature: float,
    smoothing: float = 0.0,
    left_hard: Hard | None = None,
    right_hard: Hard | None = None,
) -> Tensor:
    """Symmetric in-batch InfoNCE with logQ correction.

    Row i of `left` should find row i of `right` among all rows, and the other way round. A popular item is a negative
    more often than a rare one; subtracting its log-probability from the logits undoes that bias. No negative are: the
    same item as the positive or the anchor, and an item that is another positive of the same anchor in this batch.

    Args:
        left, right: Both sides of the pairs, B rows each.
        temperature: Divides the cosines.
        smoothing: Share of the target that is spread evenly over all candidates of an anchor.
        left_hard, right_hard: Further negatives of each row of `left` and of `right`.

    Returns:
        Scalar.

    References:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), eq. 4; the correction:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019), section 3;
        negatives mined with the model in training: Xiong et al., "Approximate Nearest Neighbor Negative Contrastive
        Learning for Dense Text Retrieval" (2021), section 4; smoothing: Szegedy et al., "Rethinking the Inception
        Architecture for Computer Vision" (2016), section 7.
    """
    logits = left.vectors.float() @ right.vectors.float().T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same_pair = (left.item[:, None] == left.item) | (right.item[:, None] == right.item)
    anchor = left.item[:, None] == right.item
    known = same_pair & ~own
    forward = (logits - right.log_popularity).masked_fill(known | anchor, -torch.inf)
    backward = (logits.T - left.log_popularity).masked_fill(known | anchor.T, -torch.inf)
    if left_hard is not None:
        forward = torch.cat([forward, left_hard.logits(left.vectors, temperature)], dim=1)
    if right_hard is not None:
        backward = torch.cat([backward, right_hard.logits(right.vectors, temperature)], dim=1)
    return 0.5 * (_nll(forward, smoothing) + _nll(backward, smoothing))


def next_item_nce(
    queries: Tensor,
    target: Side,
    seen: Tensor,
    follows: Tensor,
    temperature: float,
    smoothing: float = 0.0,
    hard: Hard | None = None,
) -> Tensor:
    """Softmax of each history over the next items of all histories of the batch, each item once, with logQ correction.

    An item of popularity q is among the next items of B histories with probability 1 - (1 - q)^B; its logit loses the
    logarithm of that, so that what all candidates sum up to estimates the sum over the catalogue. Items that the user
    had before are no negatives.

    Args:
        queries: Unit vectors of histories (B, d).
        target: Their next items, B rows.
        seen: Items that are no negatives of a history, int64 (B, S), padded with N.
        follows: 1 where `target` is the next item; other rows take no part, int64 (B,).
        temperature: Divides the cosines.
        smoothing: Share of the target that is spread evenly over all candidates of a history.
        hard: Further negatives of each row.

    Returns:
        Scalar; 0 where no row takes part.

    References:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019), section 3;
        weights by the chance to be included: Horvitz and Thompson, "A Generalization of Sampling Without Replacement
        from a Finite Universe" (1952).
    """
    rows = follows.nonzero()[:, 0]
    if not len(rows):
        return queries.sum() * 0.0
    queries, target, seen = queries[rows], target.take(rows), seen[rows]
    item, column = target.item.unique(return_inverse=True)
    count = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(item, len(rows)).scatter_reduce(0, column, count, "amin")
    candidates = target.take(first)
    logits = queries.float() @ candidates.vectors.float().T / temperature
    logits = logits - _log_included(candidates.log_popularity, len(rows))
    place = torch.searchsorted(item, seen).clamp_max(len(item) - 1)
    had = torch.zeros_like(logits).scatter_add(1, place, (item[place] == seen).to(logits.dtype)) > 0
    logits = logits.masked_fill(had.scatter(1, column[:, None], False), -torch.inf)
    if hard is not None:
        further = Hard(hard.vectors[rows], _log_included(hard.log_popularity[rows], len(rows)))
        logits = torch.cat([logits, further.logits(queries, temperature)], dim=1)
    return _nll(logits, smoothing, column)


def _log_included(log_popularity: Tensor, draws: int) -> Tensor:
    """log(1 - (1 - q)^draws)."""
    return (-torch.expm1(draws * torch.log1p(-log_popularity.exp()))).log()


def _nll(logits: Tensor, smoothing: float, column: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of rows whose target stands in `column`, by default on the diagonal.

    Candidates at -inf get no smoothed share.
    """
    log_p = functional.log_softmax(logits, dim=1)
    loss = -(log_p.diagonal() if column is None else log_p.gather(1, column[:, None])).mean()
    if not smoothing:
        return loss
    allowed = logits > -torch.inf
    spread = log_p.masked_fill(~allowed, 0.0).sum(1) / allowed.sum(1)
    return (1 - smoothing) * loss - smoothing * spread.mean()
