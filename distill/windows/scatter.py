"""Sums of rows by index: what the way back from gathered vectors needs, without an addition in memory for each."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional


def summed_by(
    index: Tensor, source: Tensor, count: int, row: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """out[index_p] += weight_p * source[row_p] for each p, as (count, D).

    One bag for each number of `index`, in the order of p: on a CPU three times as fast as `index_add_`, whose additions
    go to memory one row after the other.

    Args:
        index: Numbers below `count` (P,).
        source: Rows (R, D).
        count: Rows of the result.
        row: Row of the source for each p (P,); None: p itself.
        weight: (P,); None: ones.
    """
    if source.device.type != "cpu" or source.dtype != torch.float32:
        rows = source if row is None else source.index_select(0, row)
        rows = rows if weight is None else rows * weight[:, None].to(rows.dtype)
        return source.new_zeros(count, source.shape[1]).index_add_(0, index, rows)
    order, starts = _sorted(index, count)
    picked = order if row is None else row.index_select(0, order)
    weight = None if weight is None else weight.index_select(0, order)
    return functional.embedding_bag(picked, source, starts, mode="sum", per_sample_weights=weight)


def summed_runs(row: Tensor, source: Tensor, count: int, index: Tensor, weight: Tensor | None = None) -> Tensor:
    """out[row_p] += weight_p * source[index_p] for each p, as (count, D); `row` (P,) ascends, so nothing is sorted.

    Weights (P,) are ones where there are none.
    """
    starts = torch.searchsorted(row, torch.arange(count, device=row.device))
    return functional.embedding_bag(index, source, starts, mode="sum", per_sample_weights=weight)


def _sorted(index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A stable order of numbers (P,) and where each number's run starts (count,), by counting."""
    places = np.arange(len(index), dtype=np.int32)
    line = sparse.csr_array((places, index.numpy(), np.array([0, len(index)])), shape=(1, count)).tocsc()
    return torch.from_numpy(line.data).long(), torch.from_numpy(line.indptr[:-1]).long()
