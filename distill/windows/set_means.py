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
    sizes = torch.bincount(row, minlength=count).to(table.dtype)
    kept = None
    if dropped:
        kept = (torch.rand(len(items), dtype=table.dtype, device=table.device) >= dropped).to(table.dtype)
        remaining = torch.zeros_like(sizes).index_add_(0, row, kept)
        empty = remaining == 0
        if bool(empty.any()):
            kept = torch.where(empty[row], 1.0, kept)
            remaining = torch.where(empty, sizes, remaining)
        sizes = remaining
    return _Sums.apply(table, items, row, kept, count) / sizes.clamp_min(1.0)[:, None]


class _Sums(torch.autograd.Function):
    """Weighted sums of rows by set; an embedding bag with a quicker way back to the table."""

    @staticmethod
    def forward(context: Any, table: Tensor, items: Tensor, row: Tensor, weight: Tensor | None, count: int) -> Tensor:
        context.save_for_backward(items, row, weight)
        context.count = len(table)
        return summed_runs(row, table, count, items, weight)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        items, row, weight = context.saved_tensors
        return summed_by(items, gradients[0].contiguous(), context.count, row, weight), None, None, None, None
