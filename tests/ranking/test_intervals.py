"""Bootstrap intervals: equal to resampling by hand, and right as often as they say."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ranking_worlds import long_tailed

from distill.errors import UserError
from distill.ranking.evaluator import evaluate, rank_array
from distill.ranking.resampling import draws, mean_intervals

NAMES = ["ndcg@10", "tail_ndcg@10", "tail_recall_micro@10", "popularity_lift@10", "upd@10", "arp@10"]
EXPOSED = ["gini@10", "entropy@10"]
COVERAGE = ["coverage@10", "tail_coverage@10", "coverage_5@10", "tail_coverage_5@10"]


def lists_of_taste(cases, seed: int = 0, noise: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = np.log1p(cases.popularity) + noise * rng.normal(size=(len(cases), cases.n_items))
    return rank_array(scores, cases, 10)


def test_intervals_equal_resampling_by_hand() -> None:
    cases = long_tailed(users=60)
    ranked = lists_of_taste(cases)
    evaluation = evaluate(ranked, cases, [*NAMES, *EXPOSED])
    by_hand: dict[str, list[float]] = {name: [] for name in evaluation.values}
    for weights in np.concatenate(list(draws(60, 150, seed=4))):
        rows = np.repeat(np.arange(60), weights.astype(int))
        # Taste groups and the tail belong to the cases as a whole, so only means and sums are resampled.
        taken = evaluate(
            ranked[rows], cases.take(rows), [n for n in by_hand if n != "upd@10"], tail=evaluation.judged.tail
        )
        for name, value in taken.values.items():
            by_hand[name].append(value)
    intervals = evaluation.intervals(resamples=150, seed=4)
    for name, samples in by_hand.items():
        if samples:
            shift = evaluation.values[name] - np.median(samples) if name in EXPOSED else 0.0
            np.testing.assert_allclose(intervals[name], np.nanquantile(samples, (0.025, 0.975)) + shift, atol=1e-12)


def test_coverage_intervals_equal_leaving_users_out_by_hand() -> None:
    cases = long_tailed(users=60)
    ranked = lists_of_taste(cases)
    evaluation = evaluate(ranked, cases, COVERAGE)
    left_out = {name: [] for name in COVERAGE}
    for user in range(60):
        rows = np.delete(np.arange(60), user)
        without = evaluate(ranked[rows], cases.take(rows), COVERAGE, tail=evaluation.judged.tail)
        for name, value in without.values.items():
            left_out[name].append(value)
    for name, (low, high) in evaluation.intervals().items():
        radius = 1.959963984540054 * np.sqrt(59 * np.var(left_out[name]))
        value = evaluation.values[name]
        assert (low, high) == pytest.approx((max(value - radius, 0), min(value + radius, 1)), abs=1e-12)


def test_every_interval_holds_its_value_and_depends_on_seed_and_level() -> None:
    cases = long_tailed()
    evaluation = evaluate(lists_of_taste(cases), cases, [*NAMES, *EXPOSED, *COVERAGE])
    intervals = evaluation.intervals(seed=1)
    for name, (low, high) in intervals.items():
        assert low <= evaluation.values[name] <= high
    assert intervals == evaluation.intervals(seed=1) != evaluation.intervals(seed=2)
    narrow = evaluation.intervals(seed=1, level=0.5)
    assert all(low <= narrow[n][0] <= narrow[n][1] <= high for n, (low, high) in intervals.items())


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Users drawn from a large population whose values are known; metrics of distinct items are the delicate ones."""
    population = long_tailed(users=6000, n_items=200, seed=8)
    ranked = lists_of_taste(population, noise=0.8)
    names = ["ndcg@10", "recall@10", "coverage@10", "tail_coverage@10", "gini@10", "entropy@10", "popularity_lift@10"]
    tail = evaluate(ranked, population, ["ndcg@10"]).judged.tail
    rng = np.random.default_rng(1)
    samples = [rng.choice(6000, 150, replace=False) for _ in range(150)]
    evaluations = [evaluate(ranked[rows], population.take(rows), names, tail=tail) for rows in samples]
    truth = {name: np.mean([e.values[name] for e in evaluations]) for name in names}
    assert 0.3 < truth["tail_coverage@10"] < 0.9  # neither empty nor saturated
    intervals = [e.intervals(resamples=200) for e in evaluations]
    for name in names:
        inside = np.mean([i[name][0] <= truth[name] <= i[name][1] for i in intervals])
        assert inside >= 0.88, (name, inside)  # 0.95 less what 150 trials and 150 users allow for


def test_mean_intervals_leave_out_missing_users() -> None:
    table = np.array([[1.0, np.nan], [1.0, np.nan], [np.nan, np.nan], [1.0, np.nan]])
    result = mean_intervals(table, resamples=50)
    assert result[0].tolist() == [1.0, 1.0] and np.isnan(result[1]).all()


@pytest.mark.parametrize("arguments", [{"resamples": 1}, {"level": 1.0}, {"level": 0.0}])
def test_impossible_requests(arguments: dict[str, float]) -> None:
    cases = long_tailed(users=5)
    with pytest.raises(UserError, match="at least 2 resamples"):
        evaluate(lists_of_taste(cases), cases, ["ndcg@10"]).intervals(**arguments)


@pytest.mark.slow
def test_intervals_of_a_large_evaluation_take_seconds() -> None:
    cases = long_tailed(users=6000, n_items=9000, seen=30)
    evaluation = evaluate(lists_of_taste(cases), cases, [*NAMES, *EXPOSED, *COVERAGE])
    start = time.perf_counter()
    evaluation.intervals()
    assert time.perf_counter() - start < 10  # below 1 s on two quiet cores
