"""Rating and click metrics, and the agreement of two rankings, against plain Python on random cases."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from distill.errors import UserError
from distill.ranking.agreement import kl, overlap
from distill.ranking.ratings import auc, log_loss, mae, rmse

CASES = 1000
close_to = partial(pytest.approx, rel=1e-12, abs=1e-12, nan_ok=True)


def test_rating_and_click_metrics_equal_plain_python() -> None:
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        n = int(rng.integers(1, 30))
        scores, clicks = rng.integers(0, 6, n) / 5, rng.integers(0, 2, n)
        ratings = rng.integers(1, 6, n)
        assert mae(scores, ratings) == close_to(sum(abs(s - r) for s, r in zip(scores, ratings, strict=True)) / n)
        squares = sum((s - r) ** 2 for s, r in zip(scores, ratings, strict=True))
        assert rmse(scores, ratings) == close_to(math.sqrt(squares / n))
        kept = [min(max(s, 1e-15), 1 - 1e-15) for s in scores]
        loss = -sum(math.log(p) if c else math.log1p(-p) for p, c in zip(kept, clicks, strict=True)) / n
        assert log_loss(scores, clicks) == close_to(loss)
        pairs = [
            1.0 if p > q else 0.5 if p == q else 0.0
            for p, c in zip(scores, clicks, strict=True)
            for q, d in zip(scores, clicks, strict=True)
            if c and not d
        ]
        expected = sum(pairs) / len(pairs) if pairs else math.nan
        assert auc(scores, clicks) == close_to(expected)


def test_agreement_equals_plain_python() -> None:
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        users, n_items = int(rng.integers(1, 5)), int(rng.integers(2, 15))
        k = int(rng.integers(1, n_items + 1))
        lists = np.array([[rng.permutation(n_items) for _ in range(users)] for _ in range(2)])
        for both in lists:
            for row in both:
                row[rng.integers(0, n_items + 1) :] = -1
        found = overlap(lists[0], lists[1], k)
        for user in range(users):
            one, two = ({i for i in both[user, :k] if i >= 0} for both in lists)
            longer = max(len(one), len(two))
            assert found[user] == close_to(len(one & two) / longer if longer else math.nan)
        teacher, student = rng.integers(-3, 4, (users, n_items)) * 0.7, rng.normal(size=(users, n_items))
        divergence = kl(teacher, student, k, temperature=2.0)
        for user in range(users):
            best = sorted(range(n_items), key=lambda i: (-teacher[user, i], i))[:k]
            p, q = ([math.exp(scores[user, i] / 2) for i in best] for scores in (teacher, student))
            expected = sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
            assert divergence[user] == close_to(expected)


def test_equal_rankings_agree() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 20)) * 100
    assert kl(scores, scores, 10).tolist() == [0.0] * 5
    lists = np.argsort(-scores, axis=1)
    assert overlap(lists, lists, 10).tolist() == [1.0] * 5


def test_masked_items_carry_no_mass() -> None:
    teacher = np.array([[1.0, -np.inf, 0.0]])
    found = kl(teacher, np.array([[1.0, 5.0, 0.0]]), 3)
    assert np.isfinite(found).all() and found[0] > 0
    assert kl(teacher, np.array([[1.0, -np.inf, 0.0]]), 3)[0] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mae(np.zeros(3), np.zeros(2)), "same length"),
        (lambda: rmse(np.zeros(0), np.zeros(0)), "same length"),
        (lambda: mae(np.array([np.nan]), np.zeros(1)), "NaN or inf"),
        (lambda: log_loss(np.array([1.5]), np.array([1])), "sigmoid"),
        (lambda: auc(np.zeros(2), np.array([0, 2])), "0 or 1"),
        (lambda: overlap(np.zeros((2, 3), int), np.zeros((2, 3), int), 4), "at least 4"),
        (lambda: kl(np.zeros((2, 3)), np.zeros((2, 4)), 2), "one shape"),
        (lambda: kl(np.zeros((2, 3)), np.zeros((2, 3)), 0), "1 <= k <= N"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
