"""Plain means of sets of items, laid out one behind the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.windows.scatter import summed_by, summed_runs


def set_means(items: Tensor, row: Tensor, count: int, table: Tensor, dropped: float = 0.0) -> Tensor:
    """Mean vector (S, D) of each set, zeros for one without items.

    Args:
        items: Items of all sets (H,).
        row: The set of each, ascending (H,).
        count: S.
        table: Item vectors (N, D).
        dropped: Share of items left out at random; a set that would be empty stays whole.
    """
    kept = torch.ones(len(items), dtype=table.dtype, device=table.device)
    if dropped:
        kept = (torch.rand_like(kept) >= dropped).to(kept.dtype)
        remaining = kept.new_zeros(count).index_add_(0, row, kept)
        kept = torch.where(remaining[row] > 0, kept, 1.0)
    sizes = kept.new_zeros(count).index_add_(0, row, kept).clamp_min_(1.0)
    return _Sums.apply(table, items, row, kept / sizes[row], count)


class _Sums(torch.autograd.Function):
    """Weighted sums of rows by set; an embedding bag with a quicker way back to the table."""

    @staticmethod
    def forward(context: Any, table: Tensor, items: Tensor, row: Tensor, weight: Tensor, count: int) -> Tensor:
        context.save_for_backward(items, row, weight)
        context.count = len(table)
        return summed_runs(row, table, count, items, weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        items, row, weight = context.saved_tensors
        return summed_by(items, gradients[0].contiguous(), context.count, row, weight), None, None, None, None
