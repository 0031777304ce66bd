"""Leak checks of splits, of times, and of lists."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranking_worlds import long_tailed, small_dataset

from distill.data.dataset import TEST, TRAIN, VALID
from distill.errors import UserError
from distill.ranking.evaluator import rank_array
from distill.ranking.leaks import check_split, check_times, list_leaks


def test_a_sound_split_lists_what_is_cold() -> None:
    dataset = small_dataset(n_items=300)
    found = check_split(dataset, TEST)
    before, later = dataset.items[dataset.parts < TEST], dataset.items[dataset.parts == TEST]
    cold = sorted(set(later) - set(before))
    assert found["cold_items"] == cold and len(cold) > 5
    assert found["cold_targets"] == sum(i in cold for i in later)
    assert found["share_of_targets"] == found["cold_targets"] / len(later)
    assert found["cold_users"] == 0


def test_users_without_earlier_events_are_cold() -> None:
    dataset = small_dataset()
    parts = dataset.parts.copy()
    parts[:10] = TEST
    assert check_split(dataclasses.replace(dataset, parts=parts), TEST)["cold_users"] == 1


def test_a_leaking_split_is_refused() -> None:
    dataset = small_dataset()
    items = dataset.items.copy()
    items[9] = items[0]
    with pytest.raises(UserError, match=r"more than one part.*'u0'"):
        check_split(dataclasses.replace(dataset, items=items), TEST)
    parts = dataset.parts.copy()
    parts[12] = VALID
    with pytest.raises(UserError, match=r"back in time.*'u1'"):
        check_split(dataclasses.replace(dataset, parts=parts), TEST)


def test_train_events_after_the_cut_are_counted() -> None:
    parts = np.array([TRAIN, TRAIN, VALID, TRAIN, TRAIN, TEST])
    check_times(np.array([1, 2, 3, 1, 3, 9]), parts)
    with pytest.raises(UserError, match=r"2 train events lie after the cut 3 \(the latest at 8\)"):
        check_times(np.array([1, 5, 3, 1, 8, 9]), parts)
    check_times(np.array([5, 6]), np.array([TRAIN, TRAIN]))


def test_what_lists_should_not_hold_is_counted() -> None:
    cases = long_tailed()
    ranked = rank_array(np.random.default_rng(0).normal(size=(200, 120)), cases, 10)
    assert set(list_leaks(ranked, cases).values()) == {0}
    ranked[0, 0] = cases.seen[0][0]
    ranked[3, 1:3] = cases.seen[3][:2]
    ranked[5] = -1
    ranked[6, 8:] = -1
    ranked[7, 4] = ranked[7, 5]
    assert list_leaks(ranked, cases) == {
        "seen_items": 3,
        "users_with_seen_items": 2,
        "repeats": 1,
        "empty_lists": 1,
        "short_lists": 2,
    }
