"""Ids, ratings and times of any type."""

from datetime import UTC, datetime

import polars as pl
import pytest

from distill.data.values import clean_ids, clean_order, clean_ratings
from distill.errors import UserError

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([12, None, 7]), ["12", None, "7"]),
        (pl.Series([12.0, float("nan"), None, 7.5]), ["12", None, None, "7.5"]),
        (pl.Series([" 12 ", "", "NaN", "007", "null", None]), ["12", None, None, "007", None, None]),
        (pl.Series(["12.0", None, "7.0"]), ["12", None, "7"]),
        (pl.Series(["12.0", "v1"]), ["12.0", "v1"]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
    ],
)
def test_ids(column, expected):
    assert clean_ids(column).to_list() == expected


def test_large_integer_ids_in_float_columns_are_not_written_as_powers_of_ten():
    assert clean_ids(pl.Series([1e15, 3e15])).to_list() == ["1000000000000000", "3000000000000000"]


def test_ratings():
    column = pl.Series(["4.5", " 3", "good", "", None, "nan", "inf", "-1"])
    assert clean_ratings(column).to_list() == [4.5, 3.0, None, None, None, None, None, -1.0]
    assert clean_ratings(pl.Series([5, 3])).to_list() == [5.0, 3.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["881250949", " 2 ", ""], [881250949, 2, None]),
        (["1.5", "2"], [1.5, 2.0]),
        ([3, 1, None], [3, 1, None]),
        ([3.5, float("nan")], [3.5, None]),
        (["1970-01-02", "1970/01/01", None], [86400 * SECOND, 0, None]),
        (["1970-01-01T00:00:01Z", "1970-01-01T02:00:01+02:00"], [SECOND, SECOND]),
        (["1970-01-01 00:00:01", "1970-01-01T00:00:00.5", "1970-01-01 00:01"], [SECOND, SECOND // 2, 60 * SECOND]),
        (["1970-01-01 00:00:01+00:00", "1970-01-01 00:00:01.25+00:00"], [SECOND, SECOND * 5 // 4]),
        ([datetime(1970, 1, 1, 0, 0, 2)], [2 * SECOND]),
        ([datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)], [2 * SECOND]),
    ],
)
def test_times(values, expected):
    assert clean_order(pl.Series(values), "file").values.to_list() == expected


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (["1", "soon", "3", "later"], ["row 2: 'soon'", "row 4: 'later'", "2 of 4"]),
        (["2024-01-01", "2024-13-01"], ["row 2: '2024-13-01'"]),
        (["2024-01-01", "17", "2024-01-02"], ["row 2: '17'"]),
        (["1", "inf"], ["row 2: 'inf'"]),
        ([1.0, float("inf")], ["row 2: inf"]),
        (["31/05/2024"], ["row 1", "Expected seconds"]),
    ],
)
def test_unreadable_times_name_place_and_rows(values, rows):
    with pytest.raises(UserError) as caught:
        clean_order(pl.Series(values), "log.csv, column 'when'")
    assert "log.csv, column 'when'" in str(caught.value)
    for part in rows:
        assert part in str(caught.value)


def test_integers_beyond_a_floats_precision_stay_exact():
    times = [1_700_000_000_000_000_001, 1_700_000_000_000_000_002]
    assert clean_order(pl.Series(times), "f").values.to_list() == times
    assert clean_order(pl.Series(list(map(str, times))), "f").values.to_list() == times


YEAR_2020 = 1_577_836_800


@pytest.mark.parametrize(("ticks", "name"), [(1, "s"), (1_000, "ms"), (1_000_000, "us"), (1_000_000_000, "ns")])
def test_the_unit_of_numbers_is_told_by_their_size(ticks, name):
    order = clean_order(pl.Series([YEAR_2020 * ticks, None, (YEAR_2020 + 60) * ticks]), "f")
    assert order.ticks == ticks
    assert (order.values // order.ticks).to_list() == [YEAR_2020, None, YEAR_2020 + 60]


def test_positions_have_no_unit_and_dates_have_microseconds():
    assert clean_order(pl.Series([3, 1, 2]), "f").ticks == 0
    assert clean_order(pl.Series([], dtype=pl.Int64), "f").ticks == 0
    assert clean_order(pl.Series(["2020-01-01", None]), "f").ticks == SECOND
    assert clean_order(pl.Series(["2019-11-01 00:00:00 UTC"]), "f").values.to_list() == [1_572_566_400 * SECOND]
    assert clean_order(pl.Series(["Fri Nov 01 02:00:00 +0200 2019"]), "f").values.to_list() == [1_572_566_400 * SECOND]


def test_minutes_with_a_zone():
    times = clean_order(pl.Series(["1970-01-02 00:01", "1970-01-02T00:01Z", "1970-01-02 02:01+02:00"]), "f").values
    assert times.to_list() == [(86_400 + 60) * SECOND] * 3


def test_times_out_of_range_are_missing_and_those_in_the_future_are_counted():
    far = 4_000_000_000
    order = clean_order(pl.Series([YEAR_2020] * 5 + [YEAR_2020 * 1000, -5, far]), "f")
    assert order.values.to_list() == [YEAR_2020] * 5 + [None, None, far]
    assert (order.ticks, order.out_of_range, order.in_future) == (1, 2, 1)


def test_ids_beyond_64_bits_stay():
    assert clean_ids(pl.Series([1e19, 2.0])).to_list() == ["1e+19", "2"]
    assert clean_ids(pl.Series([2**63, 1], dtype=pl.UInt64)).to_list() == ["9223372036854775808", "1"]
