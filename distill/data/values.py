"""Values of id, rating and order columns, whatever their type in the file."""

from __future__ import annotations

import time
from dataclasses import dataclass

import polars as pl

from distill.data.times import ticks_per_second
from distill.errors import UserError

MISSING = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "NaT", "<NA>", "\\N")
# ISO 8601 in its common spellings; "%+" covers those with a time zone.
TIME_FORMATS = (
    "%+",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%#z",
    "%Y-%m-%d %H:%M:%S UTC",
    "%a %b %d %H:%M:%S %z %Y",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%d %H:%M%#z",
)
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d")
MICROSECONDS = 1_000_000
UNIT_NAMES = {1: "seconds", 1_000: "milliseconds", MICROSECONDS: "microseconds", 1_000_000_000: "nanoseconds"}
LATEST = 4_102_444_800  # 2100-01-01 in seconds
DAY = 86_400


@dataclass(frozen=True)
class Order:
    """What events are sorted by.

    Attributes:
        values: Numbers that sort in time order, one a row; null where missing or out of range.
        ticks: Ticks a second where they are times since 1970 (UTC): seconds are `values // ticks`. 0: positions.
        out_of_range: Times before 1970 or after 2099, which are null in `values`.
        in_future: Times more than a day after now, which stay.
    """

    values: pl.Series
    ticks: int = 0
    out_of_range: int = 0
    in_future: int = 0


def present(text: pl.Series) -> pl.Series:
    """Strings without white space around them; null for the usual ways to say that there is nothing."""
    text = text.str.strip_chars()
    return text.set(text.is_in(MISSING), None)


def clean_ids(column: pl.Series) -> pl.Series:
    """Ids as strings, null where missing: 12, 12.0 and " 12 " are one id, so files of different make agree.

    A column of strings loses ".0" only where every id has it (integers that were written as floats).
    """
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column == column.round()
        integers = column.cast(pl.Int64, strict=False).cast(pl.String)  # null beyond 2^63
        return column.cast(pl.String).zip_with(~whole.fill_null(False) | integers.is_null(), integers)
    if column.dtype.is_integer():
        return column.cast(pl.String)
    ids = present(column.cast(pl.String))
    if len(ids) and ids.str.ends_with(".0").all():  # nulls don't take part
        ids = ids.str.strip_suffix(".0")
    return ids


def clean_ratings(column: pl.Series) -> pl.Series:
    """Ratings as floats; null where missing, not a number or infinite."""
    numbers = _stripped(column).cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_finite().fill_null(False), None)


def clean_order(column: pl.Series, place: str) -> Order:
    """Times or positions as numbers that sort in time order.

    Numbers are kept as they are (seconds, milliseconds, positions); their unit is told by their size. ISO 8601 dates
    and times become microseconds since 1970, those without a time zone taken as UTC.

    Args:
        column: The order column, one value a row of the file.
        place: File and column, for the message.

    Raises:
        UserError: A value is neither; the message gives the first such rows.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return in_range(column.cast(pl.Datetime("us")).to_physical(), MICROSECONDS)
    if column.dtype.is_temporal():
        return Order(column.to_physical().cast(pl.Int64))
    if column.dtype.is_integer():
        numbers = column.cast(pl.Int64)
        return in_range(numbers, unit_of(numbers))
    text = _stripped(column)
    if text.dtype == pl.String:
        text = present(text)
    elif text.dtype.is_float():
        text = text.fill_nan(None)
    numbers = text.cast(pl.Int64, strict=False) if text.dtype == pl.String else text
    if numbers.null_count() > text.null_count():
        numbers = text.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & text.is_not_null()
    parsed = False
    if wrong.any() and text.dtype == pl.String:
        times = _times(text)
        still = times.is_null() & text.is_not_null()
        if still.sum() < wrong.sum():
            numbers, wrong, parsed = times, still, True
    if numbers.dtype.is_float():
        wrong = wrong | (~numbers.is_finite()).fill_null(False)
    if wrong.any():
        rows = wrong.arg_true().head(3)
        examples = ", ".join(f"row {row + 1}: {column[row]!r}" for row in rows)
        raise UserError(
            f"{place}: {wrong.sum():,} of {len(column):,} values are neither numbers nor ISO dates ({examples}; rows "
            "count from 1 after the header). Expected seconds, milliseconds, a position, or e.g. 2024-05-31T18:00:00Z."
        )
    return in_range(numbers, MICROSECONDS if parsed else unit_of(numbers))


def unit_of(numbers: pl.Series) -> int:
    """Ticks a second of numbers that are times since 1970; 0 where they are positions."""
    return ticks_per_second(numbers.drop_nulls().to_numpy()) or 0


def in_range(numbers: pl.Series, ticks: int) -> Order:
    """An order whose times before 1970 or after 2099 are null: mostly rows in another unit than the rest."""
    if not ticks:
        return Order(numbers)
    wrong = (numbers < 0) | (numbers >= LATEST * ticks)
    out_of_range = int(wrong.sum())
    if out_of_range:
        numbers = numbers.set(wrong, None)
    return Order(numbers, ticks, out_of_range, int((numbers > (time.time() + DAY) * ticks).sum()))


def _stripped(column: pl.Series) -> pl.Series:
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    return column.str.strip_chars() if column.dtype == pl.String else column


def _times(text: pl.Series) -> pl.Series:
    parsed = pl.Series([None] * len(text), dtype=pl.Int64)
    for form in (*TIME_FORMATS, *DATE_FORMATS):
        missing = parsed.is_null() & text.is_not_null()
        if not missing.any():
            break
        if form in DATE_FORMATS:
            found = text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
        else:
            found = text.str.to_datetime(form, strict=False, time_unit="us")
        parsed = parsed.zip_with(~missing, found.to_physical())
    return parsed
