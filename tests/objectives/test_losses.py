"""Each loss against a value computed by hand, its minimum, its masks, and the contract of a loss."""

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from loss_samples import (
    ITEMS,
    LABEL,
    LOGZ,
    POPULARITY,
    SCORES,
    STRATA,
    TEACHER,
    real,
    softmax,
    student_scores,
    target,
    unseen,
)

from distill.contracts import check_loss
from distill.errors import UserError
from distill.objectives.hard import bpr, cross_entropy
from distill.objectives.listwise import listwise_kl, stratified_kl
from distill.soft.target import SoftTarget

LOSSES = {
    "cross_entropy": cross_entropy,
    "cross_entropy, smoothing": partial(cross_entropy, smoothing=0.2),
    "cross_entropy, logit adjustment": partial(cross_entropy, logit_adjustment=0.7),
    "listwise_kl": listwise_kl,
    "listwise_kl, no rest": partial(listwise_kl, rest=0.0),
    "listwise_kl, the teacher's rest": partial(listwise_kl, sharpening=1.0, rest=-1.0),
    "stratified_kl": stratified_kl,
}


def log_q(row, adjustment=None):
    """Item to its log-probability under the student, over the items that aren't masked."""
    free = unseen(row)
    values = [SCORES[row][i] + (adjustment[i] if adjustment else 0.0) for i in free]
    return dict(zip(free, (math.log(p) for p in softmax(values)), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_keeps_the_contract(name):
    check_loss(LOSSES[name])


def test_cross_entropy_by_hand():
    expected = -sum(log_q(row)[LABEL[row]] for row in range(2)) / 2
    assert float(cross_entropy(student_scores(), target())) == pytest.approx(expected, abs=1e-9)
    first = target(label=torch.tensor([LABEL[0], -1]))
    assert float(cross_entropy(student_scores(), first)) == pytest.approx(-log_q(0)[LABEL[0]], abs=1e-9)


def test_smoothing_by_hand():
    expected = 0.0
    for row in range(2):
        found = log_q(row)
        uniform = -sum(found.values()) / len(found)
        expected += (0.8 * -found[LABEL[row]] + 0.2 * uniform) / 2
    assert float(cross_entropy(student_scores(), target(), smoothing=0.2)) == pytest.approx(expected, abs=1e-9)


def test_logit_adjustment_by_hand():
    shift = [0.7 * math.log(p + 0.5 / 5) for p in POPULARITY]
    expected = -sum(log_q(row, shift)[LABEL[row]] for row in range(2)) / 2
    found = cross_entropy(student_scores(), target(), logit_adjustment=0.7)
    assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("sharpening", "rest"), [(2.0, 0.2), (1.0, 0.0), (0.5, 0.9)])
def test_listwise_kl_by_hand(sharpening, rest):
    expected = 0.0
    for row in range(2):
        found, pairs = log_q(row), real(row)
        p = softmax([sharpening * t for _, t in pairs])
        inside = sum(weight * found[item] for weight, (item, _) in zip(p, pairs, strict=True))
        outside = math.log(1 - min(1 - 1e-6, sum(math.exp(found[item]) for item, _ in pairs)))
        expected += (-(1 - rest) * inside - rest * outside) / 2
    value = listwise_kl(student_scores(), target(), sharpening, rest)
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_the_teachers_own_rest_by_hand():
    expected = 0.0
    for row in range(2):
        found, pairs = log_q(row), real(row)
        p = softmax([t for _, t in pairs])
        rest = 1 - sum(math.exp(t) for _, t in pairs) / math.exp(LOGZ[row])
        assert 0 < rest < 1
        inside = sum(weight * found[item] for weight, (item, _) in zip(p, pairs, strict=True))
        outside = math.log(1 - min(1 - 1e-6, sum(math.exp(found[item]) for item, _ in pairs)))
        expected += (-(1 - rest) * inside - rest * outside) / 2
    value = listwise_kl(student_scores(), target(), sharpening=1.0, rest=-1.0)
    assert float(value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sharpening", [2.0, 0.5])
def test_stratified_kl_by_hand(sharpening):
    expected = 0.0
    for row in range(2):
        strata = {}
        for item, t in real(row):
            strata.setdefault(STRATA[item], []).append((SCORES[row][item], sharpening * t))
        parts = []
        for members in strata.values():
            if len(members) >= 2:
                q, p = softmax([s for s, _ in members]), softmax([t for _, t in members])
                parts.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        assert len(parts) == 1
        expected += parts[0] / 2
    assert float(stratified_kl(student_scores(), target(), sharpening)) == pytest.approx(expected, abs=1e-6)


def equal_student(sharpening, rest=None):
    """Student scores (B, N) that give the teacher's sharpened top k, the rest's mass spread over the others."""
    scores = student_scores()
    for row in range(2):
        pairs = real(row)
        others = [i for i in unseen(row) if i not in dict(pairs)]
        mass = rest if rest is not None else 0.5
        for p, (item, _) in zip(softmax([sharpening * t for _, t in pairs]), pairs, strict=True):
            scores[row, item] = math.log((1 - mass) * p)
        for item in others:
            scores[row, item] = math.log(mass / len(others))
    return scores


def test_divergences_are_least_at_the_teacher():
    loss = partial(listwise_kl, sharpening=2.0, rest=0.2)
    for function, scores in ((loss, equal_student(2.0, 0.2)), (stratified_kl, equal_student(2.0))):
        scores.requires_grad_()
        value = function(scores, target())
        value.backward()
        value = value.detach()
        assert scores.grad.abs().max() < 1e-6, "the gradient vanishes at equality"
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            step = 0.3 * torch.randn(scores.shape, generator=generator, dtype=torch.float64)
            assert float(function(scores.detach() + step, target())) >= float(value) - 1e-9
    assert float(stratified_kl(equal_student(2.0), target())) == pytest.approx(0.0, abs=1e-6)


def test_sharpening_is_an_inverse_temperature():
    doubled = target(scores=torch.tensor(TEACHER) * torch.where(torch.tensor(ITEMS) >= 0, 2.0, 1.0))
    for loss in (listwise_kl, stratified_kl):
        assert float(loss(student_scores(), target(), sharpening=2.0)) == pytest.approx(
            float(loss(student_scores(), doubled, sharpening=1.0)), abs=1e-6
        )


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_added_to_a_contexts_scores_changes_nothing(name):
    shift = torch.tensor([[3.0], [-50.0]], dtype=torch.float64)
    loss = LOSSES[name]
    assert float(loss(student_scores() + shift, target())) == pytest.approx(
        float(loss(student_scores(), target())), abs=1e-6
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_teachers_list_is_no_matter(name):
    flipped = target(items=torch.tensor(ITEMS).flip(1), scores=torch.tensor(TEACHER).flip(1))
    loss = LOSSES[name]
    assert float(loss(student_scores(), flipped)) == pytest.approx(float(loss(student_scores(), target())), abs=1e-7)


@pytest.mark.parametrize("loss", [listwise_kl, partial(listwise_kl, sharpening=1.0, rest=-1.0), stratified_kl])
def test_contexts_without_an_answer_do_not_count(loss):
    scores = torch.cat([student_scores(), student_scores()[:1]]).requires_grad_()
    more = target(
        label=torch.tensor([*LABEL, -1]),
        items=torch.tensor([*ITEMS, [-1] * 3]),
        scores=torch.tensor([*TEACHER, [-6e4] * 3]),
        logz=torch.tensor([*LOGZ, -torch.inf])[:, None],
    )
    value = loss(scores, more)
    value.backward()
    value = value.detach()
    assert float(value) == pytest.approx(float(loss(student_scores(), target())), abs=1e-7)
    assert torch.isfinite(scores.grad).all() and not scores.grad[2].any()
    nothing = replace(more, items=torch.full((3, 3), -1))
    assert float(loss(student_scores()[[0, 1, 0]], nothing)) == 0.0


def test_a_mass_near_one_stays_finite():
    scores = torch.tensor([[60.0, 0.0, -60.0]], requires_grad=True)
    one = SoftTarget(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[30.0, 0.0]]), torch.tensor([[30.0]]))
    for rest in (0.2, 0.0, -1.0):
        value = listwise_kl(scores, one, rest=rest)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(scores.grad).all()


def test_without_any_label_cross_entropy_is_zero_with_a_zero_gradient():
    scores = torch.tensor(SCORES, requires_grad=True)
    masked = scores.masked_fill(torch.tensor([[True] + [False] * 4] * 2), -torch.inf)
    value = cross_entropy(masked, target(label=torch.tensor([-1, -1])))
    value.backward()
    assert value.item() == 0.0 and not scores.grad.any()


@pytest.mark.parametrize("loss", [listwise_kl, stratified_kl])
def test_a_distillation_loss_without_a_teacher_says_so(loss):
    with pytest.raises(UserError, match="needs a teacher's scores"):
        loss(student_scores(), SoftTarget(torch.tensor(LABEL)))


class TestTheContractCatches:
    """What `check_loss` is for: each of these losses breaks one clause."""

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (lambda s, t: cross_entropy(s, t) * torch.ones(2), "expected a scalar"),
            (lambda s, t: cross_entropy(s, t) * len(s), "isn't a mean over contexts"),
            (lambda s, t: listwise_kl(s.float(), t).double(), "finite differences"),
            (lambda s, t: -cross_entropy(s, t), "a student that scores as the teacher does"),
            (lambda s, t: listwise_kl(s, replace(t, items=t.items % 23)), "padded with item -1"),
            (
                lambda s, t: cross_entropy(s, t) + s.nan_to_num(neginf=0.0)[:, 0].square().mean(),
                "how items are numbered",
            ),
            (lambda s, t: -s.log_softmax(1)[t.label >= 0, t.label[t.label >= 0]].mean(), "without a single label"),
        ],
    )
    def test_a_faulty_loss(self, loss, message):
        with pytest.raises(AssertionError, match=message):
            check_loss(loss)

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (lambda s, t: bpr(s, t, negatives=2) * len(s), "isn't a mean over contexts: means of"),
            (
                lambda s, t: bpr(s, t, negatives=2) + s.nan_to_num(neginf=0.0)[:, 0].square().mean(),
                "numbered: means of",
            ),
            (
                lambda s, t: bpr(s, t, negatives=t.items.shape[1]) + 0.1 * t.items.shape[1],
                "padded with item -1: means of",
            ),
            (lambda s, t: bpr(s, t, negatives=2) + random.random(), "two values from one seed"),
            (lambda s, t: listwise_kl(s, t) / (t.items >= 0).any(-1).all(), "no answer and no item left"),
        ],
    )
    def test_a_faulty_loss_that_draws(self, loss, message):
        with pytest.raises(AssertionError, match=message):
            check_loss(loss)

    def test_and_leaves_the_global_generator_as_it_was(self):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        check_loss(partial(bpr, negatives=2), draws=10)
        assert torch.rand(1) == expected
