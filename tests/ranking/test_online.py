"""Online-style estimates against a simulated reader whose truth is known: A/B tests, interleaving, propensities."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_worlds import long_tailed

from distill.data.dataset import Lists
from distill.errors import UserError
from distill.ranking.abtest import Arm, always_valid, difference, sample_size
from distill.ranking.cases import Cases
from distill.ranking.click_model import ClickModel
from distill.ranking.counterfactual import effective_sample_size, propensities, truth_sample_size
from distill.ranking.evaluator import evaluate, rank_array
from distill.ranking.interleaving import credit, replay, team_draft
from distill.ranking.judged import Judged


def lists(cases, skill: float, seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(len(cases), cases.n_items))
    scores[cases.truth.row_numbers(), cases.truth.items] += skill
    return rank_array(scores, cases, 10)


def test_sample_size_known_answers() -> None:
    assert sample_size(0.5, 0.25, power=0.9) == 77  # R: power.prop.test(p1 = .50, p2 = .75, power = .90) gives 76.7
    assert sample_size(0.05, 0.005) == sample_size(0.055, -0.005) == 31_234
    assert sample_size(0.05, 0.005, design_effect=3.0) == pytest.approx(3 * 31_234, abs=3)


def test_sample_size_gives_its_power() -> None:
    rng, n, trials = np.random.default_rng(0), sample_size(0.10, 0.03), 4000
    control, treatment = rng.binomial(n, 0.10, trials) / n, rng.binomial(n, 0.13, trials) / n
    pooled = (control + treatment) / 2
    found = np.abs(treatment - control) > 1.959964 * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert found.mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("baseline", "effect"), [(0.0, 0.1), (0.5, 0.0), (0.9, 0.2), (0.1, -0.1)])
def test_impossible_sample_sizes(baseline: float, effect: float) -> None:
    with pytest.raises(UserError, match="No sample size"):
        sample_size(baseline, effect)


def test_variance_of_a_rate_counts_users_not_impressions() -> None:
    """Users with their own click rates: the binomial variance is far too small, the delta method's is right."""
    rng = np.random.default_rng(0)
    rates, variances, naive = [], [], []
    for _ in range(600):
        trials = rng.integers(5, 40, 300)
        clicks = rng.binomial(trials, rng.beta(0.5, 4.5, 300))
        rate, variance = Arm(clicks, trials).rate()
        rates.append(rate)
        variances.append(variance)
        naive.append(rate * (1 - rate) / trials.sum())
    assert np.mean(variances) == pytest.approx(np.var(rates), rel=0.15)
    assert np.mean(naive) < 0.4 * np.var(rates)


def watched(rates: tuple[float, float], looks: int, users: int, trials: int, seed: int):
    """Cumulative differences and variances of two Bernoulli streams at every look, (trials, looks)."""
    rng = np.random.default_rng(seed)
    n = users * np.arange(1, looks + 1)
    sums = [np.cumsum(rng.binomial(users, rate, (trials, looks)), axis=1) for rate in rates]
    means = [s / n for s in sums]
    return means[1] - means[0], sum(m * (1 - m) / n for m in means)


def test_watching_every_day_keeps_the_level_where_a_fixed_test_does_not() -> None:
    d, v = watched((0.05, 0.05), looks=100, users=400, trials=1000, seed=1)
    false_alarms = np.mean([always_valid(d[t], v[t], effect=0.01).p_value[-1] <= 0.05 for t in range(1000)])
    peeking = np.mean((np.abs(d) / np.sqrt(v) > 1.96).any(axis=1))
    assert false_alarms <= 0.05 and peeking > 0.25


def test_a_real_effect_is_found_early_and_the_sequence_holds_the_truth() -> None:
    d, v = watched((0.05, 0.065), looks=100, users=400, trials=300, seed=2)
    runs = [always_valid(d[t], v[t], effect=0.01) for t in range(300)]
    assert np.mean([r.p_value[-1] <= 0.05 for r in runs]) > 0.95
    assert np.mean([(r.low <= 0.015).all() and (r.high >= 0.015).all() for r in runs]) >= 0.95
    stops = [int(np.argmax(r.p_value <= 0.05)) for r in runs if r.p_value[-1] <= 0.05]
    assert np.median(stops) < 70
    for run in runs[:20]:
        assert (np.diff(run.p_value) <= 0).all() and (np.diff(run.low) >= 0).all()


def test_p_value_and_confidence_sequence_agree() -> None:
    d, v = watched((0.05, 0.06), looks=60, users=300, trials=40, seed=3)
    for t in range(40):
        run = always_valid(d[t], v[t], effect=0.01, alpha=0.05)
        np.testing.assert_array_equal(run.p_value < 0.05, (run.low > 0) | (run.high < 0))


def test_sequential_test_needs_variance() -> None:
    with pytest.raises(UserError, match="variance above 0"):
        always_valid(np.array([0.0]), np.array([0.0]), effect=0.01)
    with pytest.raises(UserError, match="at least two users"):
        Arm(np.array([1]), np.array([2])).rate()


def test_click_model_matches_its_own_truth() -> None:
    cases, model = long_tailed(users=4000), ClickModel()
    shown = lists(cases, 1.0, 0)
    shown[:500, 6:] = -1
    clicks, conversions = model.simulate(shown, cases, seed=1)
    impressions = np.count_nonzero(shown >= 0)
    assert not clicks[shown < 0].any() and not (conversions & ~clicks).any()
    assert clicks.sum() / impressions == pytest.approx(model.true_ctr(shown, cases), abs=0.004)
    assert conversions.sum() / clicks.sum() == pytest.approx(model.true_cvr(shown, cases), abs=0.015)


@pytest.mark.parametrize("rate", ["ctr", "cvr"])
def test_ab_estimate_is_unbiased_and_its_interval_right(rate: str) -> None:
    """Users are put into arms at random again and again; the true difference is known from the click model."""
    cases, model = long_tailed(users=2000), ClickModel()
    old, new = lists(cases, 0.3, 0), lists(cases, 1.2, 1)
    truth_of = model.true_ctr if rate == "ctr" else model.true_cvr
    truth = truth_of(new, cases) - truth_of(old, cases)
    estimates, inside = [], 0
    for trial in range(200):
        treated = np.random.default_rng(trial).random(2000) < 0.5
        shown = np.where(treated[:, None], new, old)
        clicks, conversions = model.simulate(shown, cases, seed=1000 + trial)
        won, tried = (clicks.sum(1), (shown >= 0).sum(1)) if rate == "ctr" else (conversions.sum(1), clicks.sum(1))
        d, v = difference(Arm(won[~treated], tried[~treated]), Arm(won[treated], tried[treated]))
        estimates.append(d)
        inside += abs(d - truth) <= 1.96 * np.sqrt(v)
    assert np.mean(estimates) == pytest.approx(truth, abs=4 * np.std(estimates) / np.sqrt(200))
    assert inside / 200 >= 0.90


def test_team_draft_by_its_rules() -> None:
    cases = long_tailed()
    first, second = lists(cases, 0.5, 0), lists(cases, 0.5, 1)
    drafted = team_draft(first, second, 10, seed=0)
    for user in range(200):
        items, team = drafted.items[user].tolist(), drafted.team[user].tolist()
        assert len(set(items)) == 10
        for place in range(0, 10, 2):
            assert sorted(team[place : place + 2]) == [0, 1]  # a pick each in every round
        for place, (item, who) in enumerate(zip(items, team, strict=True)):
            own = (first, second)[who][user].tolist()
            assert item == next(i for i in own if i not in items[:place])
    leads = drafted.team[:, 0].mean()
    assert 0.35 < leads < 0.65


def test_team_draft_stops_when_a_list_is_used_up() -> None:
    drafted = team_draft(np.array([[1, 2, -1]]), np.array([[1, 2, 3]]), 5, seed=0)
    assert drafted.items[0].tolist() == [1, 2, -1, -1, -1] and drafted.team[0].tolist()[2:] == [-1, -1, -1]
    with pytest.raises(UserError, match="same users"):
        team_draft(np.zeros((2, 3), int), np.zeros((3, 3), int), 3)


def test_interleaving_finds_the_better_ranker_from_either_side() -> None:
    cases = long_tailed(users=1500)
    weak, strong = lists(cases, 0.2, 0), lists(cases, 1.0, 1)
    there, back = replay(weak, strong, cases, 10), replay(strong, weak, cases, 10)
    assert there.preference > 0 and there.low > 0 and there.p_value < 0.01
    assert back.preference < 0 and back.high < 0 and back.p_value < 0.01
    assert there.first + there.second + there.ties == 1500


def test_interleaving_is_fair_to_equals() -> None:
    """Two rankers of equal skill: over many drafts the preference is 0 and a false alarm is as rare as it says."""
    cases = long_tailed(users=300)
    first, second = lists(cases, 0.7, 0), lists(cases, 0.7, 1)
    shown = [np.where(np.random.default_rng(s).random((300, 1)) < 0.5, first, second) for s in range(2)]
    results = [replay(shown[0], shown[0], cases, 10, seed=s) for s in range(60)]
    assert abs(np.mean([r.preference for r in results])) < 0.015
    assert np.mean([r.p_value <= 0.05 for r in results]) <= 0.15


def test_credit_counts_by_hand() -> None:
    drafted = team_draft(np.array([[1, 2, 3]] * 3), np.array([[4, 5, 6]] * 3), 4, seed=0)
    clicks = np.zeros((3, 4), bool)
    clicks[0] = drafted.team[0] == 1
    clicks[1, :] = True
    clicks[2] = drafted.team[2] == 0
    found = credit(drafted, clicks, resamples=50)
    assert (found.first, found.second, found.ties, found.preference) == (1, 1, 1, 0.0)


def test_snips_undoes_popularity_biased_observation() -> None:
    """Relevance is uniform, observation by popularity: plain recall flatters the popularity ranker, SNIPS doesn't."""
    rng, n_items, users = np.random.default_rng(0), 100, 4000
    popularity = np.round(1000 / np.arange(1, n_items + 1)).astype(int) + 50
    likes = rng.random((users, n_items)) < 0.2
    observed = likes & (rng.random((users, n_items)) < propensities(popularity))
    items = np.nonzero(observed)[1].astype(np.int32)
    cases = Cases(
        users=np.arange(users),
        seen=Lists(np.zeros(users + 1, np.int64), np.zeros(0, np.int32)),
        truth=Lists(np.concatenate([[0], np.cumsum(observed.sum(1))]), items),
        n_items=n_items,
        popularity=popularity,
        activity=np.ones(users, int),
        n_train_users=users,
    )
    ranked = rank_array(np.tile(popularity.astype(float), (users, 1)), cases, 10)
    real = likes[:, :10].sum() / likes.sum()
    evaluation = evaluate(ranked, cases, ["tail_recall_micro@10", "snips_recall@10"], tail=np.ones(n_items, bool))
    low, high = evaluation.intervals()["snips_recall@10"]
    assert evaluation.values["tail_recall_micro@10"] > 3 * real
    assert low <= real <= high and high - low < 0.02


def test_propensities_and_effective_sample_size() -> None:
    assert propensities(np.array([100, 25, 0]), gamma=1.0, clip=0.1).tolist() == [1.0, 0.25, 0.1]
    assert propensities(np.zeros(2, int)).tolist() == [0.05, 0.05]
    assert effective_sample_size(np.ones(7)) == 7.0 and effective_sample_size(np.array([1.0, 0.0])) == 1.0
    cases = long_tailed()
    judged = Judged(lists(cases, 1.0, 0), cases, np.zeros(120, bool))
    assert 1 < truth_sample_size(judged) < len(cases.truth.items)
