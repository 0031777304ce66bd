"""Which events are train, validation and test; and whether a split leaks."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.config import Split
from distill.data.dataset import HISTORY, TEST, TRAIN, VALID, Dataset
from distill.data.lots import item_cold_start, random_events, user_holdout
from distill.data.times import cut_at
from distill.errors import UserError

Dates = tuple[float | None, float | None]
BY_LOT = ("random", "item_cold_start")  # their parts may go back in time within a user


def split_events(
    indptr: np.ndarray, order: np.ndarray | None, split: Split, items: np.ndarray | None = None
) -> np.ndarray:
    """Assigns every event to a part. But for the splits `BY_LOT`, parts never go back in time within a user.

    Args:
        indptr: Where each user's events start, int64 (U + 1,).
        order: Time of each event, (E,), rising within a user; needed by `temporal` only.
        split: Which split, and its shares.
        items: Item of each event, int (E,); needed by `item_cold_start` only.

    Returns:
        Parts, uint8 (E,).

    Raises:
        UserError: The split needs times and there are none, its dates are no dates or out of order; or train, or a
            test part that was asked for, is empty.
    """
    if split.name == "temporal" and order is not None:
        parts = temporal(order, split.ratios, _cuts_by_date(order, split))
    elif split.name == "random":
        parts = random_events(indptr, split.ratios, split.seed)
    elif split.name == "user_holdout":
        if split.history < 1:
            raise UserError(
                f"data.split.history is {split.history}; a held-out user needs at least 1 event as history."
            )
        parts = user_holdout(indptr, split.ratios, split.history, split.seed)
    elif split.name == "item_cold_start":
        if items is None:
            raise TypeError("item_cold_start divides items: pass items.")
        parts = item_cold_start(items, split.ratios, split.seed)
    elif split.name == "temporal":
        raise UserError(
            "data.split.name is 'temporal', but the interactions have no time column. Name it with "
            "data.columns.order=…, or use 'user_ratio' or 'leave_one_out', which take the order of the rows."
        )
    elif split.name == "leave_one_out":
        parts = leave_one_out(indptr)
    else:
        parts = user_ratio(indptr, split.ratios)
    wanted = {"train": TRAIN}
    if split.name == "leave_one_out" or split.ratios[2] > 0 or (split.name == "temporal" and split.test_from):
        wanted["test"] = TEST
    for name, part in wanted.items():
        if not (parts == part).any():
            raise UserError(
                f"The split '{split.name}' with shares {split.ratios} leaves no {name} event: {len(parts):,} events of "
                f"{len(indptr) - 1:,} users, at most {np.diff(indptr).max():,} a user. "
                "Change data.split, or use more data."
            )
    return parts


def cuts(counts: np.ndarray, share: float) -> np.ndarray:
    """How many of n events have (k + 0.5) / n < share, where k counts from 0.

    Rounded to 1e-9 before the comparison, so that a float's error doesn't put (3 + 0.5) / 5 below .7.

    Args:
        counts: n, int (U,).
        share: From 0 to 1.
    """
    return np.clip(np.ceil(np.round(counts * share - 0.5, 9)), 0, counts).astype(np.int64)


def user_ratio(indptr: np.ndarray, ratios: list[float]) -> np.ndarray:
    """Each user's events cut at the given shares of train and validation; the rest is test. Returns uint8 (E,)."""
    counts = np.diff(indptr)
    position = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    train = np.repeat(cuts(counts, ratios[0]), counts)
    valid = np.repeat(cuts(counts, ratios[0] + ratios[1]), counts)
    return ((position >= train).astype(np.uint8) + (position >= valid)).astype(np.uint8)


def leave_one_out(indptr: np.ndarray) -> np.ndarray:
    """The last event of a user is test and the one before it validation; users with fewer than three train only."""
    parts = np.full(indptr[-1], TRAIN, np.uint8)
    enough = np.diff(indptr) >= 3
    parts[indptr[1:][enough] - 1] = TEST
    parts[indptr[1:][enough] - 2] = VALID
    return parts


def temporal(order: np.ndarray, ratios: list[float], dates: Dates = (None, None)) -> np.ndarray:
    """One cut for all users: events at or after a cut's time come after it, so that equal times share a part.

    Args:
        order: Time of each event, (E,), comparable between users.
        ratios: Shares of train, validation and test; met as nearly as equal times allow.
        dates: Where validation and test begin, in the unit of `order`, in place of the shares; None: by share.

    Returns:
        Parts, uint8 (E,).
    """
    times = np.sort(order)
    begins: list[Any] = []
    for date, share in zip(dates, (ratios[0], ratios[0] + ratios[1]), strict=True):
        cut = int(cuts(np.array([len(times)]), share)[0])
        begins.append(date if date is not None else times[cut] if cut < len(times) else np.inf)
    if dates[1] is not None:  # a share that reaches past a date ends there
        begins[0] = min(begins)
    return (order >= begins[0]).astype(np.uint8) + (order >= max(begins)).astype(np.uint8)


def _cuts_by_date(order: np.ndarray, split: Split) -> tuple[float | None, float | None]:
    valid, test = (
        cut_at(text, order, f"data.split.{key}") if text else None
        for key, text in (("valid_from", split.valid_from), ("test_from", split.test_from))
    )
    if valid is not None and test is not None and valid > test:
        raise UserError(
            f"data.split.valid_from ({split.valid_from}) is later than data.split.test_from ({split.test_from}); "
            "validation comes before test."
        )
    return valid, test


def check_comparable(users: np.ndarray, order: np.ndarray, place: str) -> None:
    """Refuses an order that counts each user's own events as if it were a time that all users share.

    Args:
        users: User of each event, int (E,).
        order: Its value in the order column, (E,).
        place: File and column, for the message.

    Raises:
        UserError: Nearly every user begins at 0 or 1 and most steps are 1.
    """
    by_user = np.lexsort((order, users))
    users, order = users[by_user], order[by_user]
    first = np.append(True, users[1:] != users[:-1])
    starts = order[first]
    steps = np.diff(order)[~first[1:]]
    if len(starts) < 2 or not len(steps):
        return
    if np.isin(starts, (0, 1)).mean() > 0.9 and (steps == 1).mean() > 0.5:
        raise UserError(
            f"{place} counts each user's own events (0, 1, 2, …). Users can't be compared by it, as data.split.name "
            "'temporal' needs. Name a column of times (data.columns.order=…), or use 'user_ratio' or 'leave_one_out'."
        )


def check_leaks(dataset: Dataset) -> list[str]:
    """What would let a model see the answers: one sentence each; empty where the split is sound.

    Looks for a user-item pair in two parts, for parts that go back in time within a user, and for indices outside the
    catalogue.
    """
    leaks = []
    users = np.repeat(np.arange(dataset.n_users), np.diff(dataset.indptr))
    parts = np.where(dataset.parts == HISTORY, TRAIN, dataset.parts).astype(np.int8)
    lowest, highest = dataset.items.min(initial=0), dataset.items.max(initial=0)
    if lowest < 0 or highest >= max(dataset.n_items, 1):
        return [
            f"Item indices reach from {lowest} to {highest}, but the catalogue goes from 0 to {dataset.n_items - 1}."
        ]
    # Pair and part in one number, which sorts much faster than row numbers by pair.
    keys = (users * max(dataset.n_items, 1) + dataset.items) * 4 + parts
    keys.sort()
    across = (keys[1:] >> 2 == keys[:-1] >> 2) & (keys[1:] != keys[:-1])
    if across.any():
        user, item = divmod(int(keys[1:][across][0] >> 2), dataset.n_items)
        names = f"user '{dataset.user_ids[user]}', item '{dataset.item_ids[item]}'"
        leaks.append(f"{across.sum():,} user-item pairs are in more than one part (first: {names}).")
    back = (users[1:] == users[:-1]) & (parts[1:] < parts[:-1])
    if back.any():
        user = dataset.user_ids[users[1:][back][0]]
        leaks.append(f"Parts go back in time at {back.sum():,} events (first: user '{user}').")
    return leaks


def describe(dataset: Dataset) -> dict[str, Any]:
    """Sizes of a data set and its parts, and what is cold: users without train events, items first seen after train."""
    users = np.repeat(np.arange(dataset.n_users), np.diff(dataset.indptr))
    per_part = [np.bincount(users[dataset.parts == part], minlength=dataset.n_users) for part in (TRAIN, VALID, TEST)]
    in_train = dataset.popularity > 0
    seen = np.bincount(dataset.items, minlength=dataset.n_items) > 0
    later = dataset.parts != TRAIN
    train, valid, test = per_part
    folded = int(np.count_nonzero(dataset.parts == HISTORY))
    return {
        "users": dataset.n_users,
        "items in the catalogue": dataset.n_items,
        "events": len(dataset.items),
        "train events": int(train.sum()),
        **({"history events of held-out users": folded} if folded else {}),
        "validation events": int(valid.sum()),
        "test events": int(test.sum()),
        "users with a test event": int((test > 0).sum()),
        "users with train events only": int(((valid + test) == 0).sum()),
        "users without a train event (cold)": int((train == 0).sum()),
        "items first seen after train (cold)": int((seen & ~in_train).sum()),
        "events after train with an item not seen in train": int((~in_train[dataset.items] & later).sum()),
    }
