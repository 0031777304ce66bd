"""Popularity strata hold equal shares of all interactions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.strata import popularity_strata


def test_by_hand():
    #  8 | 4 4 | 2 2 2 2: each stratum holds 8 of 24 interactions; the last two items have none
    popularity = np.array([2, 4, 0, 8, 2, 4, 2, 2, 0])
    assert popularity_strata(popularity, 3).tolist() == [2, 1, 2, 0, 2, 1, 2, 2, 2]


@pytest.mark.parametrize("groups", [2, 4, 7])
def test_equal_mass_up_to_one_item(groups):
    popularity = np.random.default_rng(0).zipf(1.5, 3000).clip(max=200)
    strata = popularity_strata(popularity, groups)
    mass = np.bincount(strata, popularity, minlength=groups)
    assert np.abs(mass - popularity.sum() / groups).max() <= popularity.max()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 6))
def test_no_item_is_in_a_more_popular_stratum_than_a_more_popular_item(popularity, groups):
    popularity = np.array(popularity)
    strata = popularity_strata(popularity, groups)
    assert strata.shape == popularity.shape and strata.dtype == np.int64
    assert strata.min() >= 0 and strata.max() < groups
    order = np.argsort(-popularity, kind="stable")
    assert (np.diff(strata[order]) >= 0).all()
    assert (strata[popularity == 0] == groups - 1).all()
