"""Properties of the splits, against definitions spelled out event by event with exact fractions."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import Split
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.data.split import check_comparable, check_leaks, cuts, describe, split_events, temporal, user_ratio
from distill.errors import UserError

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12)
TENTHS = st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda pair: sum(pair) <= 20)


def pointers(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def test_user_ratio_at_every_length_and_twentieth():
    counts = np.arange(0, 400)
    for twentieths in range(21):
        below = [sum(Fraction(2 * k + 1, 2 * n) < Fraction(twentieths, 20) for k in range(n)) for n in counts.tolist()]
        assert cuts(counts, twentieths / 20).tolist() == below


@given(COUNTS, TENTHS)
def test_user_ratio_is_the_definition(counts, twentieths):
    shares = [twentieths[0] / 20, twentieths[1] / 20]
    parts = user_ratio(pointers(counts), [*shares, 1 - sum(shares)])
    first, second = Fraction(twentieths[0], 20), Fraction(sum(twentieths), 20)
    expected = []
    for n in counts:
        for k in range(n):
            f = Fraction(2 * k + 1, 2 * n)
            expected.append(TRAIN if f < first else VALID if f < second else TEST)
    assert parts.tolist() == expected


@given(COUNTS)
def test_leave_one_out_is_the_definition(counts):
    if max(counts) < 3:
        return
    parts = split_events(pointers(counts), None, Split("leave_one_out"))
    expected = []
    for n in counts:
        expected += [TRAIN] * (n - 2) + [VALID, TEST] if n >= 3 else [TRAIN] * n
    assert parts.tolist() == expected


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), TENTHS)
def test_temporal_cuts_in_time(times, twentieths):
    order = np.array(times)
    shares = [twentieths[0] / 20, twentieths[1] / 20]
    parts = temporal(order, [*shares, 1 - sum(shares)])
    for early, late in ((TRAIN, VALID), (VALID, TEST), (TRAIN, TEST)):
        if (parts == early).any() and (parts == late).any():
            assert order[parts == early].max() < order[parts == late].min()
    ties = max(np.bincount(order))
    for part, share in ((TRAIN, shares[0]), (TEST, 1 - sum(shares))):
        slack = ties + 1  # equal times go to the later part together
        assert abs((parts == part).sum() - share * len(order)) <= slack


def test_temporal_without_ties_meets_the_shares_exactly():
    order = np.random.default_rng(0).permutation(1000) * 3.5
    assert np.bincount(temporal(order, [0.7, 0.1, 0.2])).tolist() == [700, 100, 200]


@given(COUNTS, st.sampled_from(["user_ratio", "leave_one_out", "temporal"]), st.randoms(use_true_random=False))
def test_parts_never_go_back_within_a_user(counts, name, random):
    indptr = pointers(counts)
    order = np.concatenate([sorted(random.randint(0, 9) for _ in range(n)) for n in counts] or [[]])
    try:
        parts = split_events(indptr, order, Split(name, [0.5, 0.2, 0.3]))
    except UserError:
        return  # too few events for a test part
    assert len(parts) == sum(counts) and set(parts.tolist()) <= {TRAIN, VALID, TEST}
    for start, stop in pairwise(indptr):
        assert (np.diff(parts[start:stop].astype(int)) >= 0).all()


def test_temporal_needs_times():
    with pytest.raises(UserError, match=r"no time column.*data.columns.order"):
        split_events(pointers([5]), None, Split("temporal"))


@pytest.mark.parametrize(
    ("counts", "split", "part"),
    [
        ([1, 1], Split("user_ratio"), "test"),
        ([2, 2], Split("leave_one_out"), "test"),
        ([4], Split("user_ratio", [0.0, 0.5, 0.5]), "train"),
    ],
)
def test_an_empty_part_is_refused(counts, split, part):
    with pytest.raises(UserError, match=f"leaves no {part} event"):
        split_events(pointers(counts), None, split)


def test_all_in_train_is_allowed_when_asked_for():
    assert (split_events(pointers([3, 1]), None, Split("user_ratio", [1.0, 0.0, 0.0])) == TRAIN).all()


def test_equal_times_everywhere_leave_no_train():
    with pytest.raises(UserError, match="leaves no train event"):
        split_events(pointers([5]), np.zeros(5), Split("temporal"))


@pytest.mark.parametrize("start", [0, 1])
def test_positions_are_not_times(start):
    users = np.repeat(np.arange(20), 6)
    order = np.tile(np.arange(6), 20) + start
    with pytest.raises(UserError, match=r"log.csv, column 'position' counts each user's own events"):
        check_comparable(users, order, "log.csv, column 'position'")
    gaps = np.random.default_rng(0).random(len(users)) < 0.9
    with pytest.raises(UserError):
        check_comparable(users[gaps | (order == start)], order[gaps | (order == start)], "f")


def test_times_are_times():
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(20), 6)
    check_comparable(users, rng.integers(0, 10**9, 120), "f")
    check_comparable(users, rng.permutation(120), "f")  # a log's own row numbers
    check_comparable(users, np.repeat(np.arange(20), 6), "f")  # one time a user
    check_comparable(np.zeros(5, int), np.arange(5), "f")  # one user


def dataset(items, parts, counts, n_items=5):
    return Dataset(
        np.array([f"u{i}" for i in range(len(counts))]),
        np.array([f"i{i}" for i in range(n_items)]),
        [""] * n_items,
        [""] * n_items,
        pointers(counts),
        np.array(items, np.int32),
        np.array(parts, np.uint8),
    )


def test_leaks_are_found():
    assert check_leaks(dataset([0, 1, 2, 0], [0, 1, 2, 0], [3, 1])) == []
    across = check_leaks(dataset([0, 1, 0, 0], [0, 1, 2, 0], [3, 1]))
    assert across == ["1 user-item pairs are in more than one part (first: user 'u0', item 'i0')."]
    back = check_leaks(dataset([0, 1, 2, 3], [0, 0, 2, 1], [1, 3]))
    assert back == ["Parts go back in time at 1 events (first: user 'u1')."]
    assert check_leaks(dataset([0, 1], [2, 0], [1, 1])) == []  # two users
    assert "catalogue" in check_leaks(dataset([0, 9], [0, 0], [2]))[0]
    assert check_leaks(dataset([], [], [0])) == []


def test_description_counts_what_is_cold():
    found = describe(dataset([0, 1, 2, 0, 3, 3], [0, 1, 2, 0, 2, 2], [3, 1, 1, 1]))
    assert found == {
        "users": 4,
        "items in the catalogue": 5,
        "events": 6,
        "train events": 2,
        "validation events": 1,
        "test events": 3,
        "users with a test event": 3,
        "users with train events only": 1,
        "users without a train event (cold)": 2,
        "items first seen after train (cold)": 3,
        "events after train with an item not seen in train": 4,
    }
