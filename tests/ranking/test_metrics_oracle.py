"""Every metric equals a brute-force oracle on random worlds with ties, unseen items, empty users and long cutoffs."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_oracle import cases_from, head_of, list_value, mean, random_world, ranked_from, user_value

from distill.ranking.evaluator import evaluate, rank
from distill.ranking.metrics import METRICS, UserMetric

WORLDS = 2500
TOLERANCE = 1e-12


def test_every_metric_equals_the_oracle() -> None:
    rng = np.random.default_rng(20240717)
    compared = dict.fromkeys(METRICS, 0)
    worst = dict.fromkeys(METRICS, 0.0)
    long_cutoffs = empty_users = 0
    for _ in range(WORLDS):
        world = random_world(rng)
        names = [f"{name}@{world.k}" for name in METRICS]
        evaluation = evaluate(ranked_from(world), cases_from(world), names)
        tail = set(range(world.n_items)) - head_of(world.popularity, 0.8)
        long_cutoffs += world.k > world.n_items
        empty_users += any(not truth for truth in world.truth)
        for name, metric in METRICS.items():
            full = f"{name}@{world.k}"
            if isinstance(metric, UserMetric):
                expected = [user_value(name, world, user, tail) for user in range(len(world.lists))]
                found = evaluation.per_user[full]
                np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=full)
                total = mean(expected)
            else:
                total = list_value(name, world, tail)
            np.testing.assert_allclose(evaluation.values[full], total, rtol=TOLERANCE, atol=TOLERANCE, err_msg=full)
            compared[name] += not np.isnan(total)
            worst[name] = max(worst[name], abs(np.nan_to_num(evaluation.values[full] - total)))
    assert len(METRICS) >= 25
    assert long_cutoffs > 50 and empty_users > 100
    assert min(compared.values()) >= 1000, compared  # nan on both sides proves little
    print(f"{len(METRICS)} metrics, {WORLDS} worlds, largest difference {max(worst.values()):.1e}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_equals_sorting_on_random_worlds(dtype: type) -> None:
    rng = np.random.default_rng(5)
    for _ in range(WORLDS):
        world = random_world(rng)
        cases, k = cases_from(world), min(world.k, world.n_items)
        scores = rng.integers(0, rng.choice([2, 6, 1000]), (len(cases), world.n_items)).astype(dtype)
        scores[rng.random(scores.shape) < 0.1] = -np.inf
        ranked = rank(lambda rows, scores=scores: scores[rows], cases, k, batch_size=int(rng.integers(1, 4)))
        for user in range(len(cases)):
            left = [i for i in range(world.n_items) if i not in world.seen[user] and scores[user, i] > -np.inf]
            expected = sorted(left, key=lambda i: (-scores[user, i], i))[:k]
            assert ranked[user].tolist() == expected + [-1] * (k - len(expected))
