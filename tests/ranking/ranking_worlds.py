"""Cases and data sets of a wished size for the tests of the ranking room."""

from __future__ import annotations

import numpy as np

from distill.data.dataset import TEST, TRAIN, VALID, Dataset, Lists
from distill.ranking.cases import Cases


def long_tailed(users: int = 200, n_items: int = 120, seen: int = 20, truth: int = 4, seed: int = 0) -> Cases:
    """Users who draw distinct items by a power law: the first `seen` are history, the rest are the truth."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, n_items + 1)
    keys = rng.exponential(size=(users, n_items)) / weights  # the smallest keys are a weighted sample without repeats
    drawn = np.argsort(keys, axis=1)[:, : seen + truth]
    history, future = (np.ascontiguousarray(x).astype(np.int32) for x in (drawn[:, :seen], drawn[:, seen:]))
    return Cases(
        users=np.arange(users),
        seen=Lists(np.arange(users + 1) * seen, history.reshape(-1)),
        truth=Lists(np.arange(users + 1) * truth, future.reshape(-1)),
        n_items=n_items,
        popularity=np.bincount(history.reshape(-1), minlength=n_items),
        activity=np.full(users, seen),
        n_train_users=users,
    )


def small_dataset(users: int = 30, n_items: int = 40, events: int = 10, seed: int = 0) -> Dataset:
    """Users u0…, items i0…; seven events train, one validation, two test; the last user only trains."""
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(n_items)[:events] for _ in range(users)]).astype(np.int32)
    one = [TRAIN] * (events - 3) + [VALID] + [TEST] * 2
    parts = np.array(one * (users - 1) + [TRAIN] * events, np.uint8)
    return Dataset(
        user_ids=np.array([f"u{u}" for u in range(users)]),
        item_ids=np.array([f"i{i}" for i in range(n_items)]),
        titles=[f"item {i}" for i in range(n_items)],
        texts=[""] * n_items,
        indptr=np.arange(users + 1) * events,
        items=items,
        parts=parts,
    )
