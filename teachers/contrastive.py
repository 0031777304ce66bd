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


def info_nce(left: Side, right: Side, temperature: float) -> Tensor:
    """Symmetric in-batch InfoNCE with logQ correction.

    Row i of `left` should find row i of `right` among all rows, and the other way round. A popular item is a negative
    more often than a rare one; subtracting its log-probability from the logits undoes that bias. No negative are: the
    same item as the positive or the anchor, and an item that is another positive of the same anchor in this batch.

    Args:
        left, right: Both sides of the pairs, B rows each.
        temperature: Divides the cosines.

    Returns:
        Scalar.

    Reference:
        van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), eq. 4; the correction:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019), section 3.
    """
    logits = left.vectors.float() @ right.vectors.float().T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same_pair = (left.item[:, None] == left.item) | (right.item[:, None] == right.item)
    anchor = left.item[:, None] == right.item
    known = same_pair & ~own
    forward = (logits - right.log_popularity).masked_fill(known | anchor, -torch.inf)
    backward = (logits.T - left.log_popularity).masked_fill(known | anchor.T, -torch.inf)
    positive = torch.arange(len(logits), device=logits.device)
    return 0.5 * (functional.cross_entropy(forward, positive) + functional.cross_entropy(backward, positive))
