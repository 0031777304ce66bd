"""Segments: known answers on catalogues small enough to count by hand, and tables that add up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranking_worlds import long_tailed

from distill.data.dataset import Lists
from distill.ranking.accuracy import ndcg, tail_ndcg
from distill.ranking.cases import Cases
from distill.ranking.evaluator import evaluate, rank_array
from distill.ranking.judged import Judged
from distill.ranking.segments import (
    active_users,
    bottom_items,
    describe_tails,
    item_thirds,
    tail_items,
    taste_groups,
    three_by_three,
    user_thirds,
)
from distill.ranking.strata import by_segment, item_segments, stratum_values, user_segments


def test_the_item_that_crosses_the_share_is_head() -> None:
    assert tail_items(np.array([50, 30, 10, 10])).tolist() == [False, False, True, True]  # 80 of 100 exactly
    assert tail_items(np.array([50, 29, 11, 10])).tolist() == [False, False, False, True]  # 79, so the third crosses


def test_order_ties_and_unseen_items() -> None:
    assert tail_items(np.array([0, 5, 5, 5, 5, 0])).tolist() == [True, False, False, False, False, True]
    assert tail_items(np.array([5, 5, 5, 5, 5])).tolist() == [False, False, False, False, True]
    assert tail_items(np.array([1, 0, 99])).tolist() == [True, True, False]
    assert tail_items(np.zeros(3, int)).tolist() == [True, True, True]


@pytest.mark.parametrize("total", [5, 10, 35, 1005, 99_995])
def test_a_share_met_exactly_needs_no_further_item(total: int) -> None:
    popularity = np.array([total * 4 // 5, total // 5])
    assert tail_items(popularity).tolist() == [False, True]


def test_bottom_items() -> None:
    assert bottom_items(np.array([1, 9, 3, 4, 2])).tolist() == [True, False, True, True, True]
    assert bottom_items(np.array([2, 2, 2, 2, 2])).tolist() == [False, True, True, True, True]


def test_item_thirds_by_interaction_mass() -> None:
    assert item_thirds(np.array([40, 30, 10, 10, 10, 0])).tolist() == [0, 1, 2, 2, 2, 2]
    assert item_thirds(np.array([34, 33, 33])).tolist() == [0, 1, 2]
    assert item_thirds(np.array([1, 1, 1, 1, 1, 1])).tolist() == [0, 0, 1, 1, 2, 2]


def test_users_of_equal_activity_stay_together() -> None:
    assert user_thirds(np.array([1, 2, 3, 4, 5, 6])).tolist() == [0, 0, 1, 1, 2, 2]
    assert user_thirds(np.array([2, 2, 2, 2, 9, 9])).tolist() == [0, 0, 0, 0, 2, 2]
    assert user_thirds(np.array([7])).tolist() == [0]
    assert active_users(np.arange(1, 11)).tolist() == [False] * 8 + [True] * 2


def test_taste_groups_by_share_of_popular_items() -> None:
    profiles = [[0, 1], [0, 2], [0, 3], [5, 6, 0], [7, 8]]  # items 0 and 1 are the most popular fifth
    cases = Cases(
        users=np.arange(5),
        seen=Lists(np.cumsum([0, *map(len, profiles)]), np.concatenate(profiles).astype(np.int32)),
        truth=Lists(np.arange(6), np.full(5, 9, np.int32)),
        n_items=10,
        popularity=np.array([9, 8, 1, 1, 1, 1, 1, 1, 1, 1]),
        activity=np.array([2, 2, 2, 3, 2]),
        n_train_users=5,
    )
    assert taste_groups(cases).tolist() == [2, 1, 1, 1, 0]


def test_both_tails_are_described() -> None:
    cases = long_tailed()
    tails = describe_tails(cases)
    for name, mask in (("outside_80_percent", tail_items), ("bottom_80_percent", bottom_items)):
        tail, found = mask(cases.popularity), tails[name]
        assert found["items"] == tail.sum() and found["share_of_items"] == tail.mean()
        assert found["threshold"] == cases.popularity[tail].max()
        assert found["share_of_interactions"] == cases.popularity[tail].sum() / cases.popularity.sum()
        assert found["users"] == sum(tail[cases.truth[u]].any() for u in range(200))
        assert found["unseen"] == ((cases.popularity == 0) & tail).sum()
    assert tails["outside_80_percent"]["share_of_interactions"] <= 0.2


def random_lists(cases: Cases, seed: int = 0) -> np.ndarray:
    scores = np.log1p(cases.popularity) + np.random.default_rng(seed).normal(size=(len(cases), cases.n_items))
    return rank_array(scores, cases, 10)


def test_the_main_table_by_hand() -> None:
    cases = long_tailed(users=90)
    cases = dataclasses.replace(cases, activity=np.arange(90) // 10 + 1)
    ranked = random_lists(cases)
    table = three_by_three(ranked, cases, 10, resamples=200)
    items, users = item_thirds(cases.popularity), user_thirds(cases.activity)
    total = 0
    for i, item_name in enumerate(("head", "mid", "tail")):
        for u, user_name in enumerate(("light", "medium", "heavy")):
            rows = np.flatnonzero(users == u)
            values = tail_ndcg(Judged(ranked[rows], cases.take(rows), items == i), 10)
            cell = table[item_name][user_name]
            assert cell["ndcg"] == pytest.approx(np.nanmean(values), abs=1e-14)
            assert cell["users"] == np.count_nonzero(~np.isnan(values))
            assert cell["low"] < cell["ndcg"] < cell["high"]
            total += cell["targets"]
    assert total == len(cases.truth.items)


def test_a_cell_without_users_is_nan() -> None:
    cases = long_tailed(users=40)
    table = three_by_three(random_lists(cases), cases, 10, resamples=20)
    assert table["head"]["heavy"]["users"] == 0 and np.isnan(table["head"]["heavy"]["ndcg"])
    assert table["head"]["light"]["users"] > 0


def test_segments_carry_threshold_size_and_share() -> None:
    cases = long_tailed(users=90)
    cases = dataclasses.replace(cases, activity=np.arange(90) // 10)
    ranked = random_lists(cases)
    found = by_segment(ranked, cases, 10, resamples=50)
    overall = evaluate(ranked, cases, ["ndcg@10", "tail_ndcg@10"]).values
    assert found["items"]["outside_80_percent"]["ndcg"] == pytest.approx(overall["tail_ndcg@10"], abs=1e-14)
    for name, mask in item_segments(cases).items():
        assert found["items"][name]["items"] == mask.sum()
    for name, mask in user_segments(cases).items():
        cell = found["users"][name]
        assert cell["users"] == mask.sum() and cell["share_of_users"] == pytest.approx(mask.mean())
        assert not mask.any() or (cell["least"], cell["most"]) == (
            cases.activity[mask].min(),
            cases.activity[mask].max(),
        )
    thirds = [found["users"][name] for name in ("light", "medium", "heavy")]
    assert sum(c["ndcg"] * c["users"] for c in thirds) / 90 == pytest.approx(overall["ndcg@10"], abs=1e-14)
    assert sum(found["items"][n]["share_of_interactions"] for n in ("head", "mid", "tail")) == pytest.approx(1.0)
    assert found["users"]["cold"]["users"] == 10


def test_strata_cover_every_user_once() -> None:
    cases = long_tailed(users=90)
    cases = dataclasses.replace(cases, activity=np.arange(90) // 10)
    judged = Judged(random_lists(cases), cases, tail_items(cases.popularity))
    values = stratum_values(judged, 10)
    users = np.stack([values[f"{name} users"] for name in ("light", "medium", "heavy")])
    assert (np.count_nonzero(~np.isnan(users), axis=0) == 1).all()
    np.testing.assert_array_equal(np.nansum(users, axis=0), ndcg(judged, 10))
