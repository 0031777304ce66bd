"""Splits by lot: events, whole users or whole items, drawn from a seed."""

from __future__ import annotations

import numpy as np

from distill.data.dataset import HISTORY, TEST, TRAIN, VALID


def random_events(indptr: np.ndarray, ratios: list[float], seed: int) -> np.ndarray:
    """Each user's events in a random order, cut at the given shares; time plays no part. Returns uint8 (E,)."""
    counts = np.diff(indptr)
    users = np.repeat(np.arange(len(counts)), counts)
    drawn = np.random.default_rng(seed).random(len(users))
    place = np.empty(len(users), np.int64)
    place[np.lexsort((drawn, users))] = np.arange(len(users)) - np.repeat(indptr[:-1], counts)
    f = (place + 0.5) / np.repeat(counts, counts)
    edges = np.round([ratios[0], ratios[0] + ratios[1]], 9)
    return np.searchsorted(edges, np.round(f, 9), side="right").astype(np.uint8)


def user_holdout(indptr: np.ndarray, ratios: list[float], history: int, seed: int) -> np.ndarray:
    """Whole users: train users train with all they did; others show `history` events and are asked for the rest.

    Shares are of the users with more than `history` events; users with fewer train, since nothing of theirs could be
    asked. Held-out users have no train event (strong generalisation, Marlin 2004; Liang et al. 2018, section 4.2).

    Args:
        indptr: Where each user's events start, int64 (U + 1,).
        ratios: Shares of train, validation and test users.
        history: k; the first k events of a held-out user are HISTORY.
        seed: Of the draw.

    Returns:
        uint8 (E,).
    """
    counts = np.diff(indptr)
    able = np.flatnonzero(counts > history)
    kind = np.full(len(counts), TRAIN, np.uint8)
    kind[able] = _parts_by_lot(len(able), ratios, seed)
    position = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    parts = np.repeat(kind, counts)
    parts[(parts != TRAIN) & (position < history)] = HISTORY
    return parts


def item_cold_start(items: np.ndarray, ratios: list[float], seed: int) -> np.ndarray:
    """Whole items: no event of a validation or test item is in train, as with items that are new in the shop.

    Args:
        items: Item of each event, int (E,).
        ratios: Shares of train, validation and test items, of those with events.
        seed: Of the draw.

    Returns:
        uint8 (E,).
    """
    used = np.flatnonzero(np.bincount(items))
    kind = np.zeros(int(items.max(initial=0)) + 1, np.uint8)
    kind[used] = _parts_by_lot(len(used), ratios, seed)
    return kind[items]


def _parts_by_lot(count: int, ratios: list[float], seed: int) -> np.ndarray:
    """TRAIN, VALID and TEST for `count` things in the given shares, uint8 (count,)."""
    valid, test = round(count * ratios[1]), round(count * ratios[2])
    parts = np.repeat(np.array([TRAIN, VALID, TEST], np.uint8), [count - valid - test, valid, test])
    return np.random.default_rng(seed).permutation(parts)
