"""Small data sets whose right answer is known, to fit plug-ins on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.data.dataset import TRAIN, VALID, Dataset


def checkerboard(
    n_users: int = 80, n_items: int = 24, events: int = 7, seed: int = 0, cold: Sequence[int] = ()
) -> Dataset:
    """Users with even numbers choose items of the first half, the others those of the second; the last is validation.

    Whoever has learned it recommends to each user nothing but items of the user's own half, see `share_in_own_half`.
    Nobody chooses the items in `cold`.
    """
    rng = np.random.default_rng(seed)
    halves = np.array_split(np.arange(n_items), [n_items // 2])
    choices = [np.setdiff1d(half, cold) for half in halves]
    return _dataset(np.stack([rng.permutation(choices[user % 2])[:events] for user in range(n_users)]), n_items)


def share_in_own_half(ranked: np.ndarray, users: np.ndarray, n_items: int = 24) -> float:
    """Share of recommended items (B, K) that lie in the own half of the users (B,) of a `checkerboard`."""
    return float(((ranked >= n_items // 2) == (users % 2 == 1)[:, None]).mean())


def ring(n_users: int = 120, n_items: int = 24, events: int = 7, seed: int = 0) -> Dataset:
    """Users begin anywhere and take one item after the other, the first after the last; the last is validation.

    Whoever reads the order of a history knows its next item: (latest + 1) mod n_items. Who reads a set doesn't.
    """
    starts = np.random.default_rng(seed).integers(0, n_items, n_users)
    return _dataset((starts[:, None] + np.arange(events)) % n_items, n_items)


def _dataset(rows: np.ndarray, n_items: int) -> Dataset:
    """A data set of histories (U, E), train but for the last event of each."""
    n_users, events = rows.shape
    names = [f"i{i}" for i in range(n_items)]
    return Dataset(
        user_ids=np.array([f"u{u}" for u in range(n_users)]),
        item_ids=np.array(names),
        titles=names,
        texts=list(names),
        indptr=np.arange(n_users + 1, dtype=np.int64) * events,
        items=rows.reshape(-1).astype(np.int32),
        parts=np.tile(np.array([TRAIN] * (events - 1) + [VALID], np.uint8), n_users),
    )
