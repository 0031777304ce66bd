"""Scores of pairs against the plain products, forward and backward, in every way of computing them."""

import pytest
import torch

from distill.objectives import dots

N, B, D = 11, 5, 3


def drawn(dtype):
    generator = torch.Generator().manual_seed(0)
    query, table, bias = (torch.randn(*size, dtype=dtype, generator=generator) for size in ((B, D), (N, D), (N,)))
    row = torch.tensor([0, 0, 0, 2, 2, 3, 4, 4])  # one query has no pair
    items = torch.tensor([3, 3, 1, 0, 10, 3, 2, 1])  # one pair is there twice
    return [x.requires_grad_() for x in (query, table, bias)], row, items, torch.rand(8, dtype=dtype) + 0.5


@pytest.mark.parametrize("dense", [0, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_products_of_their_rows(monkeypatch, dtype, dense):
    monkeypatch.setattr(dots, "BLOCK", 2 * D)
    monkeypatch.setattr(dots, "DENSE", dense)
    given, row, items, weight = drawn(dtype)
    query, table, bias = given
    found = dots.scores_of_pairs(query, table, bias, row, items)
    wanted = (query[row] * table[items]).sum(-1) + bias[items]
    torch.testing.assert_close(found, wanted)
    for one, other in zip(*(torch.autograd.grad((x * weight).sum(), given) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


def test_both_ways_back_are_those_of_finite_differences():
    given, row, items, _ = drawn(torch.float64)
    assert torch.autograd.gradcheck(lambda *x: dots.scores_of_pairs(*x, row, items), given)


def test_scores_of_a_few_items_for_each_query():
    (query, table, bias), _, _, _ = drawn(torch.float32)
    items = torch.randint(N, (B, 4), generator=torch.Generator().manual_seed(1))
    wanted = (query @ table.T + bias).gather(1, items)
    torch.testing.assert_close(dots.scores_of(query, table, bias, items), wanted)
    assert dots.scores_of(query, table, bias, items[:, :0]).shape == (B, 0)


def test_more_pairs_than_cells():
    (query, table, bias), _, _, _ = drawn(torch.float32)
    row, items = torch.arange(B).repeat_interleave(3 * N), torch.arange(N).repeat(3 * B)
    wanted = (query @ table.T + bias).repeat(1, 3).flatten()
    torch.testing.assert_close(dots.scores_of_pairs(query, table, bias, row, items), wanted)


def test_nothing_to_score():
    given, row, items, _ = drawn(torch.float32)
    found = dots.scores_of_pairs(*given, row[:0], items[:0])
    assert found.shape == (0,)
    assert not any(part.any() for part in torch.autograd.grad(found.sum(), given))


def test_said_nothing(recwarn, monkeypatch):
    monkeypatch.setattr(dots, "DENSE", 0)
    given, row, items, _ = drawn(torch.float32)
    dots.scores_of_pairs(*given, row, items)
    assert not recwarn.list
