"""Scores of a few items for each context of a batch, and the way back, in blocks that stay in a core's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill.windows.scatter import summed_by

BLOCK = 2**16  # numbers of the gathered vectors of a block


def scores_of(query: Tensor, table: Tensor, bias: Tensor, items: Tensor) -> Tensor:
    """q_b . row_i + bias_i for the items of each context, (B, J).

    Args:
        query: Queries (B, D).
        table: Item vectors (N, D).
        bias: Item biases (N,).
        items: Item indices (B, J).
    """
    return _Scores.apply(query, table, bias, items)


class _Scores(torch.autograd.Function):
    """Vectors are gathered anew on the way back: cheaper than keeping B x J of them."""

    @staticmethod
    def forward(context: Any, query: Tensor, table: Tensor, bias: Tensor, items: Tensor) -> Tensor:
        out = bias[items].to(query.dtype)
        for at in _blocks(items, query.shape[1]):
            out[at] += _vectors(table, items[at]).mul_(query[at, None]).sum(-1)
        context.save_for_backward(query, table, items)
        context.bias = bias.dtype
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, table, items = context.saved_tensors
        of_query = torch.empty_like(query)
        for at in _blocks(items, query.shape[1]):
            torch.sum(_vectors(table, items[at]).mul_(gradients[0][at, :, None]), 1, out=of_query[at])
        context_of = torch.arange(items.numel(), device=items.device) // items.shape[1]
        of_table = summed_by(items.flatten(), query, len(table), context_of, gradients[0].flatten().to(query.dtype))
        of_bias = torch.zeros(len(table), dtype=context.bias, device=table.device)
        of_bias.index_add_(0, items.flatten(), gradients[0].flatten().to(context.bias))
        return of_query, of_table, of_bias, None


def _vectors(table: Tensor, items: Tensor) -> Tensor:
    return table.index_select(0, items.flatten()).view(*items.shape, -1)


def _blocks(items: Tensor, width: int) -> list[slice]:
    step = max(1, BLOCK // max(1, items.shape[1] * width))
    return [slice(first, first + step) for first in range(0, len(items), step)]
