"""Sorting whole numbers by several columns: packed into one 64-bit key a row, several times faster than an argsort."""

from __future__ import annotations

import numpy as np

BITS = 62


def order_by(*columns: np.ndarray) -> np.ndarray:
    """Row numbers that sort by the first column, then the second, …; equal rows keep their order. int64 (R,).

    The row number is the lowest part of each key, so a plain sort of the keys is a stable one, and keys never have to
    be carried along. Columns that don't fit into one key together are sorted by one after the other, the last first; a
    last column that rises with the rows, as times in most files do, needs no sorting.

    Args:
        columns: Whole numbers, (R,) each; floats are sorted the slow way.
    """
    rows = len(columns[0])
    while len(columns) > 1 and (columns[-1][1:] >= columns[-1][:-1]).all():  # rows are in its order already
        columns = columns[:-1]
    if not rows or not all(column.dtype.kind in "iu" for column in columns):
        return np.lexsort(columns[::-1])
    lows = [int(column.min()) for column in columns]
    widths = [(int(column.max()) - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    row_bits = (rows - 1).bit_length()
    if max(widths) + row_bits > BITS:
        return np.lexsort(columns[::-1])
    order: np.ndarray | None = None
    last = len(columns)
    while last:
        first = last - 1
        while first and sum(widths[first - 1 : last]) + row_bits <= BITS:
            first -= 1
        key = np.zeros(rows, np.int64)
        for number in range(first, last):
            key <<= widths[number]
            key |= columns[number].astype(np.int64) - lows[number]
        if order is not None:
            key = key[order]
        key <<= row_bits
        key |= np.arange(rows)
        key.sort()
        key &= (1 << row_bits) - 1
        order = key if order is None else order[key]
        last = first
    assert order is not None
    return order


def first_places(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers counted anew in order of first appearance.

    Args:
        numbers: Whole numbers from 0 that don't reach much beyond their count, (R,).

    Returns:
        The new number of each row, int32 (R,), and the old number of each new one, int64.
    """
    first = np.full(int(numbers.max(initial=-1)) + 1, -1, np.int64)
    first[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)  # of repeated places the last assignment stays
    present = np.flatnonzero(first >= 0)
    present = present[np.argsort(first[present])]
    new = np.empty(len(first), np.int32)
    new[present] = np.arange(len(present), dtype=np.int32)
    return new[numbers], present
