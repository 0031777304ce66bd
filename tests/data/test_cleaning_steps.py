"""Repeats added up, weights, caps, numbering of integer ids, and improbable users."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import Bots
from distill.data import cleaning
from distill.data.bots import improbable_users, treat_bots
from distill.errors import UserError


def frame(**columns):
    return pl.DataFrame(columns)


def test_play_counts_add_up_at_the_last_event():
    events = frame(
        user=[0, 0, 0, 1, 1], item=[5, 6, 5, 5, 5], rating=[3.0, 4.0, 1.0, None, None], order=[1, 2, 3, 1, 2]
    )
    summary = {}
    kept = cleaning.drop_repeats(events, "sum", summary)
    assert kept.rows() == [(0, 6, 4.0, 2), (0, 5, 4.0, 3), (1, 5, None, 2)]
    assert summary == {"repeated user-item pairs (kept the last, ratings added up)": 2}
    assert cleaning.drop_repeats(events.drop("rating"), "sum", {}).rows() == [(0, 6, 2), (0, 5, 3), (1, 5, 2)]


def test_weights():
    events = frame(user=[0, 1, 2], rating=[3.0, None, 0.0])
    summary = {}
    assert cleaning.weigh(events, "rating", "f", summary)["weight"].to_list() == [3.0, 0.0]
    assert summary == {"events without a rating to weigh by (dropped)": 1}
    assert cleaning.weigh(events, "log", "f", {})["weight"].to_list() == pytest.approx([np.log(4), 0.0])
    assert "weight" not in cleaning.weigh(events, "none", "f", {}).columns
    with pytest.raises(UserError, match=r"weight is 'log', but log.csv has no rating column"):
        cleaning.weigh(frame(user=[0]), "log", "log.csv", {})
    with pytest.raises(UserError, match=r"ratings down to -2.0"):
        cleaning.weigh(frame(rating=[-2.0]), "log", "log.csv", {})


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), max_size=40), st.integers(1, 4))
def test_caps_keep_the_latest(rows, most):
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    events = frame(user=[r[0] for r in rows], item=[r[1] for r in rows], order=[r[2] for r in rows])
    events = events.cast(pl.Int64).with_row_index("row")
    summary = {}
    by_user = cleaning.cap(events, most, 0, summary)
    for user in range(5):
        own = events.filter(pl.col("user") == user)
        assert by_user.filter(pl.col("user") == user).rows() == own.tail(most).rows()
    assert summary == {f"events beyond a user's latest {most} (dropped)": events.height - by_user.height}
    by_item = cleaning.cap(events, 0, most, {})
    for item in range(5):
        own = sorted(events.filter(pl.col("item") == item).rows(), key=lambda row: (row[3], row[0]))
        assert sorted(by_item.filter(pl.col("item") == item).rows(), key=lambda row: (row[3], row[0])) == own[-most:]
    assert cleaning.cap(events, 0, 0, summary).height == events.height


def test_of_both_caps_the_second_sees_what_the_first_left():
    events = frame(user=[0, 0, 1], item=[0, 1, 1], order=[1, 2, 3])
    assert cleaning.cap(events, 1, 1, {}).rows() == [(1, 1, 3)]


@pytest.mark.parametrize("ids", [[7, 5, 7, 6], [2**61, -5, 2**61, 0], [-(2**63), 2**63 - 1, -(2**63), 3]])
def test_integer_ids_are_numbered_like_strings(ids):
    numbered = cleaning.encode(frame(user_id=ids, item_id=ids[::-1]))
    spelled = cleaning.encode(frame(user_id=[str(i) for i in ids], item_id=[str(i) for i in ids[::-1]]))
    assert numbered[0].rows() == spelled[0].rows()
    assert [s.to_list() for s in numbered[1:]] == [s.to_list() for s in spelled[1:]]
    assert numbered[0].schema == {"user": pl.Int32, "item": pl.Int32}


def world():
    """Users: 0 a person, 1 with 100 events in half a minute, 2 with one a minute, 3 with many, 4 with few fast ones."""
    rng = np.random.default_rng(0)
    times = [
        np.sort(rng.integers(0, 10**7, 40)),
        np.sort(rng.integers(0, 30, 100)),
        np.arange(50) * 60,
        np.sort(rng.integers(0, 10**8, 500)),
        np.zeros(10, np.int64),
    ]
    users = np.repeat(np.arange(5), [len(t) for t in times])
    return users, np.concatenate(times)


def test_each_rule_finds_its_own():
    users, seconds = world()
    found = improbable_users(users, seconds, Bots(quantile=0.8))
    assert {rule: which.tolist() for rule, which in found.items()} == {
        "events a minute": [1],
        "equal intervals": [2],
        "events": [3],
    }
    off = improbable_users(users, seconds, Bots(events_per_minute=0, equal_intervals=0))
    assert off == {}
    assert list(improbable_users(users, None, Bots(quantile=0.8))) == ["events"]


def test_bots_are_reported_and_dropped_only_when_asked():
    users, seconds = world()
    events = frame(user=users, item=np.arange(len(users)))
    summary = {}
    assert treat_bots(events, seconds, Bots(), False, summary).height == events.height
    assert summary == {
        "users improbable by events a minute (kept)": 1,
        "users improbable by equal intervals (kept)": 1,
    }
    summary = {}
    kept = treat_bots(events, seconds, Bots(), True, summary)
    assert kept["user"].unique().sort().to_list() == [0, 3, 4]
    assert summary["events of improbable users (dropped)"] == 150
