"""Values of id, rating and order columns, whatever their type in the file."""

from __future__ import annotations

import polars as pl

from distill.errors import UserError

MISSING = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "NaT", "<NA>", "\\N")
# ISO 8601 in its common spellings; "%+" covers those with a time zone.
TIME_FORMATS = (
    "%+",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d")


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
        return column.cast(pl.String).zip_with(
            ~whole.fill_null(False), column.cast(pl.Int64, strict=False).cast(pl.String)
        )
    ids = present(column.cast(pl.String))
    if len(ids) and ids.str.ends_with(".0").all():  # nulls don't take part
        ids = ids.str.strip_suffix(".0")
    return ids


def clean_ratings(column: pl.Series) -> pl.Series:
    """Ratings as floats; null where missing, not a number or infinite."""
    numbers = _stripped(column).cast(pl.Float64, strict=False)
    return numbers.set(~numbers.is_finite().fill_null(False), None)


def clean_order(column: pl.Series, place: str) -> pl.Series:
    """Times or positions as numbers that sort in time order; null where missing.

    Numbers are kept as they are (seconds, milliseconds, positions); ISO 8601 dates and times become microseconds since
    1970, those without a time zone taken as UTC.

    Args:
        column: The order column, one value a row of the file.
        place: File and column, for the message.

    Raises:
        UserError: A value is neither; the message gives the first such rows.
    """
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).to_physical()
    if column.dtype.is_temporal():
        return column.to_physical().cast(pl.Int64)
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    text = _stripped(column)
    if text.dtype == pl.String:
        text = present(text)
    elif text.dtype.is_float():
        text = text.fill_nan(None)
    numbers = text.cast(pl.Int64, strict=False) if text.dtype == pl.String else text
    if numbers.null_count() > text.null_count():
        numbers = text.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & text.is_not_null()
    if wrong.any() and text.dtype == pl.String:
        times = _times(text)
        still = times.is_null() & text.is_not_null()
        if still.sum() < wrong.sum():
            numbers, wrong = times, still
    if numbers.dtype.is_float():
        wrong = wrong | (~numbers.is_finite()).fill_null(False)
    if wrong.any():
        rows = wrong.arg_true().head(3)
        examples = ", ".join(f"row {row + 1}: {column[row]!r}" for row in rows)
        raise UserError(
            f"{place}: {wrong.sum():,} of {len(column):,} values are neither numbers nor ISO dates ({examples}; rows "
            "count from 1 after the header). Expected seconds, milliseconds, a position, or e.g. 2024-05-31T18:00:00Z."
        )
    return numbers


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
