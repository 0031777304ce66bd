"""Cleaning steps: what they keep, and that every step counts what it did."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data import cleaning
from distill.errors import UserError


def frame(**columns):
    return pl.DataFrame(columns)


def test_rows_without_ids_or_times_are_dropped_and_counted():
    events = frame(user_id=["a", None, "b", "c"], item_id=["x", "x", None, "y"], order=[1, 2, 3, None])
    summary = {}
    assert cleaning.drop_incomplete(events, summary).rows() == [("a", "x", 1)]
    assert summary == {"rows without a user or item id (dropped)": 2, "rows without a time (dropped)": 1}


def test_ids_are_numbered_by_first_appearance():
    events, users, items = cleaning.encode(frame(user_id=["b", "a", "b"], item_id=["y", "y", "x"]))
    assert users.to_list() == ["b", "a"]
    assert items.to_list() == ["y", "x"]
    assert events.select("user", "item").rows() == [(0, 0), (1, 0), (0, 1)]


@pytest.mark.parametrize(("keep", "ratings"), [("first", [1.0, 4.0]), ("last", [4.0, 3.0])])
def test_of_repeated_pairs_the_first_or_last_in_time_stays(keep, ratings):
    events = frame(user=[0, 0, 0], item=[5, 6, 5], rating=[3.0, 4.0, 1.0], order=[30, 20, 10])
    summary = {}
    kept = cleaning.drop_repeats(cleaning.sort_events(events), keep, summary)
    assert kept["rating"].to_list() == ratings
    assert summary == {f"repeated user-item pairs (kept the {keep})": 1}


def test_equal_times_stay_in_file_order():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 7, 5000).astype(np.int32)
    expected = None
    for scale in (1, 2**60, 1.5):  # one key, two columns (the key would overflow), floats
        events = frame(user=users, order=np.random.default_rng(1).integers(0, 5, 5000) * scale, row=np.arange(5000))
        rows = cleaning.sort_events(events)["row"].to_list()
        expected = expected or sorted(range(5000), key=lambda i: (users[i], events["order"][i]))
        assert rows == expected
    assert cleaning.sort_events(frame(user=[1, 0, 1], row=[2, 1, 0])).rows() == [(0, 1), (1, 2), (1, 0)]


def test_rating_threshold():
    events = frame(user=[0, 1, 2, 3], rating=[4.0, 3.9, None, 5.0])
    summary = {}
    assert cleaning.drop_low_ratings(events, 4, "f", summary)["user"].to_list() == [0, 3]
    assert summary == {"missing or non-numeric ratings (dropped)": 1, "ratings below 4 (dropped)": 1}
    summary = {}
    assert cleaning.drop_low_ratings(events, None, "f", summary).height == 4
    assert summary == {"missing or non-numeric ratings (kept, no threshold set)": 1}
    assert cleaning.drop_low_ratings(frame(user=[0]), None, "f", summary).height == 1
    with pytest.raises(UserError, match=r"min_rating is 4, but log.csv has no rating column"):
        cleaning.drop_low_ratings(frame(user=[0]), 4, "log.csv", summary)


def core_by_hand(pairs, min_user, min_item):
    """One event at a time, in plain Python."""
    left = list(range(len(pairs)))
    while True:
        for event in left:
            user, item = pairs[event]
            of_user = sum(pairs[e][0] == user for e in left)
            of_item = sum(pairs[e][1] == item for e in left)
            if of_user < min_user or of_item < min_item:
                left.remove(event)
                break
        else:
            return left


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True, max_size=30),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_core_equals_a_removal_one_by_one(pairs, min_user, min_item):
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    inside, _ = cleaning.core(users, items, min_user, min_item)
    assert np.flatnonzero(inside).tolist() == core_by_hand(pairs, min_user, min_item)


def test_core_of_a_chain_unravels_round_by_round():
    users, items = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2])  # item 0 has one event, then user 0, …
    inside, rounds = cleaning.core(users, items, 2, 2)
    assert not inside.any()
    assert rounds > 1


def test_core_counts_what_it_dropped():
    events = frame(user=[0, 0, 1], item=[0, 1, 0])
    summary = {}
    assert cleaning.keep_core(events, 2, 0, summary).rows() == [(0, 0), (0, 1)]
    assert summary == {
        "events outside the core of 2 a user and 0 an item (dropped)": 1,
        "rounds until the core was stable": 1,
    }
    summary = {}
    assert cleaning.keep_core(events, 1, 0, summary).height == 3
    assert summary == {}


def test_nothing_left_tells_which_steps_took_it():
    with pytest.raises(
        UserError, match=r"Nothing is left of log.csv after cleaning \(ratings below 4 \(dropped\): 1,200\)"
    ):
        cleaning.require_events(frame(user=[]), "log.csv", {"form": "x", "ratings below 4 (dropped)": 1200, "other": 0})
    cleaning.require_events(frame(user=[1]), "log.csv", {})
