"""The best k of each row of scores, exactly, with one tie rule: the lower item index wins."""

from __future__ import annotations

import math

import numpy as np

from distill.errors import UserError


def top_k(scores: np.ndarray, k: int, first_row: int = 0) -> np.ndarray:
    """Items of the k highest scores of each row, best first.

    Equal scores are ordered by item index, also where a tie straddles the k-th place. An item with score -inf is never
    listed; places that stay free hold -1.

    A long row isn't sorted or partitioned as a whole. Items are dealt into groups (item i into group i mod G), one
    vectorised pass takes the maximum of each group, and the k-th largest group maximum is a lower bound of the
    k-th largest
    score: only the groups that reach it can hold one of the best k. With G near sqrt(k N) that leaves about
    sqrt(k N) candidates. Rows in which more than k groups reach the bound (ties) are partitioned as a whole.

    Args:
        scores: Floats (B, N); read only.
        k: Length of the lists, 1..N.
        first_row: Number of the first row, for the error message.

    Returns:
        Item indices, int32 (B, k).

    Raises:
        UserError: A score is NaN or +inf.
    """
    rows, n_items = scores.shape
    groups = math.ceil(math.sqrt(k * n_items))
    if groups < 2 * k or n_items < 4 * groups:
        _refuse_nan(scores, scores, first_row)
        return _listed(scores, np.broadcast_to(np.arange(n_items), scores.shape), k)
    peaks = _group_peaks(scores, groups)
    _refuse_nan(peaks, scores, first_row)
    bound = np.partition(peaks, groups - k, axis=1)[:, groups - k, None]
    reach = peaks >= bound
    tied = np.count_nonzero(reach, axis=1) > k
    if not tied.any():
        return _from_groups(scores, reach, k)
    listed = np.empty((rows, k), np.int32)
    plain = ~tied
    if plain.any():
        listed[plain] = _from_groups(scores[plain], reach[plain], k)
    whole = scores[tied]
    listed[tied] = _listed(whole, np.broadcast_to(np.arange(n_items), whole.shape), k)
    return listed


def _group_peaks(scores: np.ndarray, groups: int) -> np.ndarray:
    """Maximum over the items i, i + G, i + 2G, … of each row, (B, G); NaN where one of them is NaN."""
    rows, n_items = scores.shape
    width = n_items // groups
    peaks = scores[:, : width * groups].reshape(rows, width, groups).max(axis=1)
    rest = scores[:, width * groups :]
    edge = peaks[:, : rest.shape[1]]
    np.maximum(edge, rest, out=edge)
    return peaks


def _from_groups(scores: np.ndarray, reach: np.ndarray, k: int) -> np.ndarray:
    """Top k among the items of the k groups a row that `reach` (B, G) marks."""
    rows, n_items = scores.shape
    groups = reach.shape[1]
    columns = np.nonzero(reach)[1].reshape(rows, 1, k)
    steps = np.arange(0, n_items, groups).reshape(-1, 1)
    items = (columns + steps).reshape(rows, -1)  # ascending in each row, which the tie rule needs
    inside = items < n_items
    values = np.take_along_axis(scores, np.where(inside, items, 0), axis=1)
    values[~inside] = -np.inf
    return _listed(values, items, k)


def _listed(values: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Top k of candidates `items` (B, C), ascending in each row, with scores `values` (B, C); int32 (B, k)."""
    rows, candidates = values.shape
    places = np.broadcast_to(np.arange(candidates), values.shape)
    if k < candidates:
        kth = np.partition(values, candidates - k, axis=1)[:, candidates - k, None]
        chosen = values >= kth
        if np.count_nonzero(chosen) > rows * k:  # a tie straddles the k-th place: its lowest indices are taken
            above = values > kth
            room = k - np.count_nonzero(above, axis=1)[:, None]
            ties = chosen & ~above
            chosen = above | (ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room))
        places = np.nonzero(chosen)[1].reshape(rows, k)
    best = np.take_along_axis(values, places, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    listed = np.take_along_axis(np.take_along_axis(items, places, axis=1), order, axis=1).astype(np.int32)
    listed[np.take_along_axis(best, order, axis=1) == -np.inf] = -1
    return listed


def _refuse_nan(peaks: np.ndarray, scores: np.ndarray, first_row: int) -> None:
    """Refuses NaN and +inf; `peaks` holds maxima of `scores`, searched only when there is something to say."""
    if peaks.size == 0 or peaks.max() < np.inf:
        return
    nan, infinite = np.isnan(scores), scores == np.inf
    row, item = (int(x) for x in np.argwhere(nan | infinite)[0])
    raise UserError(
        f"Rows {first_row} to {first_row + len(scores) - 1} hold {nan.sum()} NaN and {infinite.sum()} +inf scores; the "
        f"first is {scores[row, item]} at row {first_row + row}, item {item}. Scores must be finite (-inf: never list "
        "this item). Look for a division by zero, a log of 0 or a diverged training run."
    )
