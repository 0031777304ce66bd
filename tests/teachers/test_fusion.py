"""Late fusion: weights found on validation, sharpness, and the fused scores."""

import math

import numpy as np
import pytest
import torch

from distill.data.contexts import ContextBatch
from teachers.fusion import FusedTeacher, fit_sharpness, fit_tilt, fit_weights

USERS, N = 300, 60


def world(seed=0):
    """A true taste (U, N), an item drawn by it for each user, and a measure of quality: mean reciprocal rank."""
    rng = torch.Generator().manual_seed(seed)
    taste = 1.5 * torch.randn(USERS, N, generator=rng)
    labels = torch.multinomial(taste.softmax(1), 1, generator=rng)[:, 0]

    def quality(scores):
        own = scores.gather(1, labels[:, None])
        return float((1.0 / (1 + (scores > own).sum(1))).mean())

    def noisy(amount):
        return taste + amount * torch.randn(USERS, N, generator=rng)

    return taste, labels, quality, noisy


def test_a_useless_member_gets_no_weight_and_fusion_is_no_worse_than_the_best():
    _, _, quality, noisy = world()
    scores = {"good": noisy(1.0), "fair": 7.0 * noisy(1.5), "opposite": -noisy(0.5)}
    weights, best = fit_weights(scores, quality, rounds=3)
    assert set(weights) == set(scores)
    assert weights["opposite"] == 0.0 and weights["good"] > 0
    assert best >= max(quality(s) for s in scores.values())
    fused = sum(scores[n] * w for n, w in weights.items())
    assert quality(fused) == pytest.approx(best, abs=5e-3)


def test_two_halves_of_the_truth_are_better_together():
    _, _, quality, noisy = world()
    scores = {"a": noisy(1.5), "b": 0.01 * noisy(1.5)}
    weights, best = fit_weights(scores, quality, rounds=3)
    assert min(weights.values()) > 0
    assert best > max(quality(s) for s in scores.values()) + 0.01


def test_a_members_scale_does_not_matter():
    _, _, quality, noisy = world()
    a, b = noisy(1.0), noisy(1.5)
    first, best = fit_weights({"a": a, "b": b}, quality, 2)
    second, again = fit_weights({"a": a * 50.0, "b": b}, quality, 2)
    assert best == pytest.approx(again, abs=5e-3)
    assert second["a"] * 50.0 == pytest.approx(first["a"], rel=0.2)


def test_one_member_and_no_rounds():
    _, _, quality, noisy = world()
    scores = noisy(1.0)
    weights, best = fit_weights({"only": scores}, quality, 3)
    assert weights["only"] == pytest.approx(1 / float(scores.std(1).mean()))
    assert best == pytest.approx(quality(scores))
    weights, best = fit_weights({"a": -scores, "b": scores}, quality, 0)
    assert weights["a"] == 0.0 and best == pytest.approx(quality(scores))


def test_constant_scores_do_no_harm():
    _, _, quality, noisy = world()
    weights, best = fit_weights({"good": noisy(1.0), "flat": torch.zeros(USERS, N)}, quality, 2)
    assert math.isfinite(weights["flat"]) and best > 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sharpness_recovers_a_known_temperature(temperature):
    rng = torch.Generator().manual_seed(1)
    scores = torch.randn(20_000, 30, generator=rng)
    seen = torch.randint(0, 30, (20_000, 2), generator=rng)
    masked = scores.clone().scatter_(1, seen, -torch.inf)
    labels = torch.multinomial((masked / temperature).softmax(1), 1, generator=rng)[:, 0]
    found = fit_sharpness(scores, seen, labels)
    step = 10 ** (2 / 40)  # of the grid
    assert 1 / temperature / step <= found <= 1 / temperature * step


def test_sharpness_leaves_the_scores_as_they_are():
    scores = torch.randn(5, 6)
    before = scores.clone()
    fit_sharpness(scores, torch.zeros(5, 1, dtype=torch.long), torch.ones(5, dtype=torch.long))
    assert torch.equal(scores, before)


class Fixed:
    """A member with ready scores."""

    def __init__(self, scores):
        self.scores, self.asked = scores, 0

    def score(self, batch):
        self.asked += 1
        return self.scores[batch.row_id].clone()


def test_the_fused_score_is_the_sharpened_weighted_sum():
    a, b, c = (Fixed(torch.randn(8, 5, generator=torch.Generator().manual_seed(n))) for n in range(3))
    teacher = FusedTeacher({"a": a, "b": b, "c": c}, {"a": 2.0, "b": 0.5, "c": 0.0}, sharpness=3.0)
    rows = np.array([5, 1, 1])
    nothing = np.zeros((3, 1), np.int64)
    batch = ContextBatch(rows, rows, nothing, nothing, rows, rows)
    expected = 3.0 * (2.0 * a.scores + 0.5 * b.scores)[rows]
    assert torch.allclose(teacher.score(batch), expected, atol=1e-6)
    assert torch.allclose(teacher.score(batch), expected, atol=1e-6), "asking twice gives the same"
    assert c.asked == 0, "a member without weight isn't asked"
    with pytest.raises(ValueError, match="every member's weight is zero"):
        FusedTeacher({"a": a}, {"a": 0.0}).score(batch)


def test_the_tilt_takes_out_popularity_that_was_added_twice():
    taste, _, quality, _ = world()
    prior = torch.linspace(0.0, 2.0, N)
    doubled = taste + prior
    tilt = fit_tilt(doubled, prior, quality, quality, 0.02)
    assert tilt == pytest.approx(1.0, rel=0.35)
    assert quality(doubled - tilt * prior) > quality(doubled)


def test_a_tilt_may_cost_no_more_than_it_is_allowed():
    taste, _, quality, _ = world()
    prior = torch.linspace(0.0, 2.0, N)

    def against_popular(scores):
        return -float((scores.argmax(1) * 1.0).mean())  # the last items are the popular ones

    free = fit_tilt(taste, prior, against_popular, quality, 1.0)
    bounded = fit_tilt(taste, prior, against_popular, quality, 0.02)
    assert free > bounded >= 0
    assert quality(taste - bounded * prior) >= 0.98 * quality(taste)


def test_without_a_prior_there_is_nothing_to_tilt():
    taste, _, quality, _ = world()
    assert fit_tilt(taste, torch.ones(N), quality, quality, 0.02) == 0.0


def test_the_fused_teacher_takes_the_tilt_off_its_scores():
    class Flat:
        def score(self, batch):
            return torch.zeros(len(batch.row_id), 3)

    batch = ContextBatch(*(np.zeros((2, 1), np.int64) for _ in range(6)))
    teacher = FusedTeacher(
        {"flat": Flat()}, {"flat": 1.0}, sharpness=2.0, tilt=0.5, prior=torch.tensor([0.0, 1.0, 3.0])
    )
    assert teacher.score(batch).tolist() == [[0.0, -1.0, -3.0]] * 2
