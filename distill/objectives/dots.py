"""Scores of pairs of a query and an item, and the way back, without laying out a vector for each pair."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from distill.windows.scatter import summed_by, summed_runs

DENSE = 6  # cells of the product of all queries and vectors that cost as much as a pair
BLOCK = 2**22  # numbers of the vectors that are gathered at once, where they have to be


def scores_of(query: Tensor, table: Tensor, bias: Tensor, items: Tensor) -> Tensor:
    """q_b . row_i + bias_i for the items of each context, (B, J).

    Args:
        query: Queries (B, D).
        table: Item vectors (N, D).
        bias: Item biases (N,).
        items: Item indices (B, J).
    """
    row = torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1])
    return scores_of_pairs(query, table, bias, row, items.flatten()).view(items.shape)


def scores_of_pairs(query: Tensor, table: Tensor, bias: Tensor, row: Tensor, items: Tensor) -> Tensor:
    """q_row . row_item + bias_item for each pair (P,).

    Args:
        query: Queries (B, D).
        table: Item vectors (N, D).
        bias: Item biases (N,).
        row: The query of each pair, ascending (P,).
        items: Its item (P,).
    """
    return _Scores.apply(query, table, bias, row, items)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, table: Tensor, bias: Tensor, row: Tensor, items: Tensor) -> Tensor:
        context.save_for_backward(query, table, row, items)
        context.bias = bias.dtype
        return _dots(query, table, row, items).add_(bias.to(query.dtype).index_select(0, items))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, table, row, items = context.saved_tensors
        gradient = gradients[0].contiguous()
        of_query = summed_runs(row, table, len(query), items, gradient)
        of_table = summed_by(items, query, len(table), row, gradient)
        of_bias = torch.zeros(len(table), dtype=context.bias, device=table.device)
        return of_query, of_table, of_bias.index_add_(0, items, gradient.to(context.bias)), None, None


def _dots(query: Tensor, table: Tensor, row: Tensor, items: Tensor) -> Tensor:
    if len(query) * len(table) <= DENSE * len(items):
        return (query @ table.T).view(-1).index_select(0, row * len(table) + items)
    if query.device.type == "cpu" and query.dtype == torch.float32:
        return _sampled(query, table, row, items)
    step = max(1, BLOCK // max(1, query.shape[1]))
    out = query.new_empty(len(items))
    for first in range(0, len(items), step):
        at = slice(first, first + step)
        out[at] = table.index_select(0, items[at]).mul_(query.index_select(0, row[at])).sum(-1)
    return out


def _sampled(query: Tensor, table: Tensor, row: Tensor, items: Tensor) -> Tensor:
    """The product of both at the places of a sparse matrix: five times as fast as gathering the vectors of pairs."""
    starts = torch.searchsorted(row, torch.arange(len(query) + 1))
    size = (len(query), len(table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch's compressed rows are a beta
        places = torch.sparse_csr_tensor(starts, items, query.new_zeros(len(items)), size, check_invariants=False)
    return torch.sparse.sampled_addmm(places, query, table.T, beta=0.0).values()
