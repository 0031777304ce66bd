"""What an order column means: a time in some unit, or a position."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from distill.errors import UserError

# Ticks a second of the units that times come in, each up to the year 5138; smaller numbers than 1973 are positions.
EARLIEST = 100_000_000
UNITS = ((100_000_000_000, 1), (100_000_000_000_000, 1_000), (100_000_000_000_000_000, 1_000_000))
SAMPLE = 100_000  # values, evenly spread, that tell the unit
COARSE = {"second": 1, "hour": 3600, "day": 86400}


def ticks_per_second(order: np.ndarray) -> int | None:
    """The unit of an order column, told by its size; None where the numbers are positions.

    Args:
        order: Values of the column, (E,); half of them at least must be later than March 1973 to be times.
    """
    if not len(order):
        return None
    some = order[:: max(1, len(order) // SAMPLE)]
    middle = float(np.partition(some, len(some) // 2)[len(some) // 2])
    if middle < EARLIEST:
        return None
    return next((ticks for limit, ticks in UNITS if middle < limit), 1_000_000_000)


def to_seconds(order: np.ndarray | None, ticks: int) -> np.ndarray | None:
    """Seconds since 1970, int64 (E,), rounded down; None where there are no times.

    Args:
        order: Values of the column, (E,), or None without one.
        ticks: Its ticks a second; 0 where it holds positions.
    """
    if order is None or not ticks:
        return None
    return np.floor_divide(order, ticks).astype(np.int64)


def cut_at(text: str, order: np.ndarray, key: str) -> float:
    """A date, or a number as the column has them, in the unit of the order column.

    Args:
        text: ISO 8601 date or time (without a zone it is UTC), or a number.
        order: The order column, (E,).
        key: Whose value it is, for the message.

    Raises:
        UserError: It is neither, or it is a date where the column holds positions.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{key} is '{text}', expected a date such as 2024-05-31, or a number as in the order column."
        ) from error
    ticks = ticks_per_second(order)
    if ticks is None:
        raise UserError(
            f"{key} is the date '{text}', but the order column holds positions (up to {order.max():g}), not times. "
            "Give a position, or name a column of times with data.columns.order=…."
        )
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.timestamp() * ticks
