"""Packed sorting against numpy's lexsort, and numbering by first appearance against a dictionary."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.cleaning import encode
from distill.data.sorting import first_places, order_by

INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-(2**40), 2**40), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.tuples(INTEGERS, INTEGERS, INTEGERS), max_size=30), st.integers(1, 3))
@settings(max_examples=300)
def test_it_is_a_stable_lexsort(rows, count):
    columns = [np.array([row[c] for row in rows], np.int64) for c in range(count)]
    np.testing.assert_array_equal(order_by(*columns), np.lexsort(columns[::-1]))


@pytest.mark.parametrize("spans", [(10, 10), (2**20, 2**20), (2**30, 2**40), (2**50, 2**50), (5, 2**61)])
def test_many_rows_in_one_key_or_several(spans):
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, span, 5000) // 3 - 7 for span in spans]
    columns[1][::5] = columns[1][1::5]
    np.testing.assert_array_equal(order_by(*columns), np.lexsort(columns[::-1]))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", "float64"])
def test_every_kind_of_number(kind):
    rng = np.random.default_rng(0)
    low = -100 if kind != "uint8" and kind != "uint64" else 0
    columns = [rng.integers(low, 100, 500).astype(kind) for _ in range(2)]
    np.testing.assert_array_equal(order_by(*columns), np.lexsort(columns[::-1]))


def test_rows_in_time_order_are_sorted_by_user_alone():
    users, times = np.array([2, 1, 2, 1]), np.array([5, 5, 6, 7])
    assert order_by(users, times).tolist() == [1, 3, 0, 2]


@given(st.lists(st.integers(0, 40), max_size=60))
def test_numbers_in_order_of_first_appearance(numbers):
    codes, places = first_places(np.array(numbers, np.int64))
    known = {}
    for number in numbers:
        known.setdefault(number, len(known))
    assert codes.tolist() == [known[number] for number in numbers]
    assert places.tolist() == list(known)


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        (pl.Int8, [127, -128, 127, 3]),
        (pl.UInt8, [255, 0, 255, 3]),
        (pl.Int64, [10**15, -4, 10**15, 7]),
        (pl.Int64, [2**63 - 1, -(2**63), 2**63 - 1, 7]),
        (pl.UInt64, [2**64 - 1, 0, 2**64 - 1, 7]),
    ],
)
def test_integer_ids_of_any_width_are_numbered_as_their_texts_are(kind, ids):
    column = pl.Series(ids, dtype=kind)
    found = {}
    for name, values in (("numbers", column), ("texts", column.cast(pl.String))):
        events, users, items = encode(pl.DataFrame({"user_id": values, "item_id": values.reverse()}))
        found[name] = (events.rows(), users.to_list(), items.to_list())
    assert found["numbers"] == found["texts"]
    assert found["numbers"][1] == [str(ids[0]), str(ids[1]), str(ids[3])]
