"""Losses that read scores together give what each gives alone."""

import torch

from distill.objectives.hard import cross_entropy
from distill.objectives.listwise import listwise_kl, stratified_kl
from distill.objectives.reading import is_shared, log_total, picked, read_together
from distill.soft.target import SoftTarget


def given():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 30, generator=generator)
    scores = scores.masked_fill(torch.rand(6, 30, generator=generator) < 0.2, -torch.inf)
    scores[5] = -torch.inf
    teacher = torch.randn(6, 30, generator=generator).masked_fill(scores.isneginf(), -torch.inf).topk(8, dim=1)
    items = teacher.indices.masked_fill(teacher.values.isneginf(), -1)
    label = items[:, 0].clone()
    label[2] = -1
    target = SoftTarget(label, items, teacher.values.clamp_min(-9.0), strata=torch.arange(30) % 4)
    return scores, target


def total(scores, target):
    return cross_entropy(scores, target) + listwise_kl(scores, target) + stratified_kl(scores, target)


def test_values_and_gradients_are_those_of_each_loss_alone():
    scores, target = given()
    alone, together = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    expected = total(alone, target)
    expected.backward()
    with read_together([together], [target.label[:, None], target.items]):
        found = total(together, target)
    found.backward()
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(together.grad, alone.grad, atol=1e-6)


def test_a_row_without_items_has_a_finite_normaliser_and_no_gradient():
    scores, target = given()
    scores = scores.requires_grad_()
    with read_together([scores], [target.items]):
        found = log_total(scores)
    assert found.isfinite().all()
    found.sum().backward()
    assert scores.grad[5].abs().max() == 0 and scores.grad.isfinite().all()
    assert torch.allclose(scores.grad[:5].sum(1), torch.ones(5))


def test_only_those_scores_and_lists_are_shared():
    scores, target = given()
    with read_together([scores], [target.items]):
        assert is_shared(scores) and not is_shared(scores.clone())
        other = target.items.flip(1)
        assert torch.equal(picked(scores, other), scores.gather(1, other.clamp_min(0)))
        assert torch.equal(picked(scores, target.items), scores.gather(1, target.items.clamp_min(0)))
    assert not is_shared(scores)
