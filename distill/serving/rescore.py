"""Exact scores and exact lists with numpy: what a score is, how ties are broken, and the scan of a whole table.

A score is the inner product of a float32 query and a float32 row, plus the bias, summed in float64 and rounded once to
float32: products of two float32 numbers are exact in float64, so it doesn't depend on the order of summation, except
where the sum lies within 1e-15 of the middle of two float32 numbers. Equal scores: the lower item index first.
"""

from __future__ import annotations

import numpy as np

ROWS_AT_ONCE = 2**14  # rows of the table in float64: 8 MB at 64 dims
EMPTY = np.iinfo(np.int64).max  # the key of an empty place: behind all others
KEY, HALF = np.dtype("<i8"), np.dtype("<i4")  # the lower half of a key lies first
ZERO, MAGNITUDE = np.float32(0), np.int32(0x7FFFFFFF)


def exact_scores(rows: np.ndarray, bias: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Scores float32 (C,) of pairs of a row and a query, all within the range of float32.

    Args:
        rows: float32 (C, D).
        bias: float32 (C,).
        queries: float64 (D,), one for all rows, or (C, D).
    """
    wide = rows.astype(np.float64)
    sums = wide @ queries if queries.ndim == 1 else np.einsum("cd,cd->c", wide, queries)
    return (sums + bias).astype(np.float32)


def keys_of(scores: np.ndarray, items: np.ndarray) -> np.ndarray:
    """One int64 for a score and an item, so that ascending keys are descending scores and, at a tie, ascending items.

    The bits of float32 numbers are in the order of the numbers, once those of negative ones are flipped.

    Args:
        scores: float32, any shape, no NaN.
        items: Whole numbers of the same shape, 0 to 2^31 - 1.
    """
    bits = (ZERO - scores).view(np.int32)  # 0 - x, not -x: then -0 and 0 are one number
    keys = np.empty(scores.shape, KEY)
    halves = keys.view(HALF)  # in turns the item, which decides ties, and the score
    halves[..., ::2] = items
    np.bitwise_xor(bits, (bits >> 31) & MAGNITUDE, out=halves[..., 1::2])
    return keys


def opened_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items int64 and scores float32 of keys; -1 and -inf for `EMPTY`."""
    halves = keys.view(HALF)
    ascending = halves[..., 1::2]
    scores = ZERO - (ascending ^ ((ascending >> 31) & MAGNITUDE)).view(np.float32)
    items = halves[..., ::2].astype(np.int64)
    empty = items < 0  # the lower half of `EMPTY` is -1
    if np.count_nonzero(empty):
        scores[empty] = -np.inf
    return items, scores


def first_keys(keys: np.ndarray, k: int) -> np.ndarray:
    """The k smallest keys of each row in order, (B, k); `EMPTY` where a row has fewer."""
    if keys.shape[-1] > 4 * k:
        keys = np.partition(keys, k - 1, axis=-1)[..., :k]
    chosen = np.sort(keys, axis=-1)[..., :k]
    missing = k - chosen.shape[-1]
    return np.pad(chosen, [(0, 0)] * (chosen.ndim - 1) + [(0, missing)], constant_values=EMPTY) if missing else chosen


def full_scan(
    table: np.ndarray, bias: np.ndarray, items: np.ndarray, queries: np.ndarray, hidden: np.ndarray, k: int
) -> np.ndarray:
    """Keys int64 (B, k) of the best k items by brute force.

    Args:
        table: Rows by place, float32 (P, D), possibly a memory map.
        bias: Biases by place, float32 (P,).
        items: Item of each place, int64 (P,).
        queries: float32 (B, D).
        hidden: Places that are never listed, int64 (B, S).
        k: Length of the lists.
    """
    wide = queries.astype(np.float64)
    best = np.full((len(queries), k), EMPTY)
    for start in range(0, len(table), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        with np.errstate(over="ignore"):
            scores = (wide @ table[some].astype(np.float64).T + bias[some]).astype(np.float32)
        keys = keys_of(scores, np.broadcast_to(items[some], scores.shape))
        row, column = np.nonzero((hidden >= start) & (hidden < start + scores.shape[1]))
        keys[row, hidden[row, column] - start] = EMPTY
        best = first_keys(np.concatenate([best, keys], axis=1), k)
    return best
