"""Tests and intervals of differences: exact answers where they can be enumerated, right error rates elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distill.errors import UserError
from distill.ranking.significance import cluster_bootstrap, effect_size, holm, mean_over_seeds, paired, sign_flip


def test_sign_flip_equals_full_enumeration() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.0, 0.5, 0.1, -0.2, 0.3, 0.1])
    sums = np.array([np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=10)])
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
    found = sign_flip(differences, flips=200_000, seed=3)[0]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 200_000))


def test_ties_of_rounded_sums_count() -> None:
    # All ten flips of one sign give the same |sum| but for rounding; the exact p value is 2 / 2**3.
    found = sign_flip(np.array([0.1, 0.2, 0.3]), flips=100_000)[0]
    assert found == pytest.approx(0.25, abs=0.006)


def test_sign_flip_never_says_zero_and_knows_no_difference() -> None:
    assert sign_flip(np.ones(200), flips=999)[0] == pytest.approx(1 / 1000)
    assert sign_flip(np.zeros(50))[0] == 1.0
    assert np.isnan(sign_flip(np.full(5, np.nan))[0])
    assert sign_flip(np.array([1.0, np.nan, -1.0, np.nan]))[0] == 1.0


def test_sign_flip_is_seeded_symmetric_and_vectorised() -> None:
    table = np.random.default_rng(0).normal(size=(300, 4)) + np.array([0.0, 0.1, 0.2, -0.2])
    together = sign_flip(table, 2000, seed=5)
    alone = [sign_flip(table[:, m], 2000, seed=5)[0] for m in range(4)]
    assert together.tolist() == alone == sign_flip(-table, 2000, seed=5).tolist()
    assert together.tolist() != sign_flip(table, 2000, seed=6).tolist()


def test_sign_flip_keeps_its_level_under_the_null() -> None:
    rng = np.random.default_rng(2)
    zero_inflated = rng.normal(size=(80, 2000)) * (rng.random((80, 2000)) < 0.3)  # as per-user ndcg differences are
    rejected = np.mean(sign_flip(zero_inflated, 2000) <= 0.05)
    assert 0.035 <= rejected <= 0.065


def test_holm_known_answer() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm(np.array([[0.01, np.nan], [0.9, 0.5]]))
    assert adjusted[0, 0] == pytest.approx(0.03) and np.isnan(adjusted[0, 1]) and adjusted[1].tolist() == [1.0, 1.0]
    assert holm(np.array([])).shape == (0,)


def test_effect_size() -> None:
    differences = np.array([1.0, 2.0, 3.0, np.nan])
    assert effect_size(differences) == pytest.approx(2.0 / 1.0)
    assert effect_size(np.zeros(4)) == 0.0 and effect_size(np.full(4, -0.3)) == -np.inf
    assert np.isnan(effect_size(np.array([1.0])))


def test_cluster_bootstrap_covers_the_truth_and_the_user_bootstrap_does_not() -> None:
    """Values with an effect of the seed: an interval that forgets the seeds is far too narrow."""
    rng = np.random.default_rng(0)
    covered = {"both": 0, "users only": 0}
    for trial in range(150):
        values = 0.5 + rng.normal(0, 0.1, (12, 1)) + rng.normal(0, 0.3, (1, 100)) + rng.normal(0, 0.2, (12, 100))
        for name, table in (("both", values), ("users only", values.mean(0))):
            low, high = cluster_bootstrap(table, 300, seed=trial)
            covered[name] += low <= 0.5 <= high
    assert covered["both"] / 150 >= 0.87
    assert covered["users only"] < covered["both"]


def test_cluster_bootstrap_of_one_seed_is_over_users() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = cluster_bootstrap(values, 2000)
    half = 1.96 * values.std() / np.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert cluster_bootstrap(values, seed=1) == cluster_bootstrap(values, seed=1)


def test_paired() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((3, 200))
    result = paired(base + 0.05 + rng.normal(0, 0.1, base.shape), base)
    assert result.low < result.difference < result.high and result.low > 0
    assert result.p_value < 0.01 and result.effect_size > 0.3 and (result.users, result.seeds) == (200, 3)
    with pytest.raises(UserError, match="can't be paired"):
        paired(base, base[:, :100])


def test_mean_over_seeds_skips_missing() -> None:
    table = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    assert mean_over_seeds(table)[:2].tolist() == [2.0, 5.0] and np.isnan(mean_over_seeds(table)[2])


def test_no_users_or_flips() -> None:
    with pytest.raises(UserError, match="at least 1 user and 1 flip"):
        sign_flip(np.zeros(0))
    with pytest.raises(UserError, match="at least 1 user and 1 flip"):
        sign_flip(np.zeros(3), flips=0)
