"""Raw interactions to clean ones; each step counts what it did in `summary`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from distill.errors import UserError


def drop_incomplete(events: pl.DataFrame, summary: dict[str, Any]) -> pl.DataFrame:
    """Drops rows without a user or item id, and rows without a time where the file has times."""
    identified = events.filter(pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null())
    summary["rows without a user or item id (dropped)"] = events.height - identified.height
    if "order" not in events.columns:
        return identified
    timed = identified.filter(pl.col("order").is_not_null())
    summary["rows without a time (dropped)"] = identified.height - timed.height
    return timed


def encode(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Replaces ids by numbers in order of first appearance.

    Returns:
        The events with `user` and `item` (int32) in place of the ids, and the ids of the numbers.
    """
    users, items = (events[name].unique(maintain_order=True) for name in ("user_id", "item_id"))
    for column, ids in (("user", users), ("item", items)):
        numbers = pl.DataFrame({f"{column}_id": ids, column: pl.int_range(len(ids), dtype=pl.Int32, eager=True)})
        events = events.join(numbers, on=f"{column}_id", how="left", maintain_order="left")
    return events.drop("user_id", "item_id"), users, items


def sort_by_time(events: pl.DataFrame) -> pl.DataFrame:
    """Sorts all events by time; equal times, and all events where the file has no times, stay in file order."""
    return events.sort("order", maintain_order=True) if "order" in events.columns else events


def drop_repeats(events: pl.DataFrame, keep: Literal["first", "last"], summary: dict[str, Any]) -> pl.DataFrame:
    """Keeps one event a (user, item) pair: the first or the last in time."""
    unique = events.unique(["user", "item"], keep=keep, maintain_order=True)
    summary[f"repeated user-item pairs (kept the {keep})"] = events.height - unique.height
    return unique


def drop_low_ratings(
    events: pl.DataFrame, min_rating: float | None, path: Path, summary: dict[str, Any]
) -> pl.DataFrame:
    """Drops events rated below `min_rating`, or without a readable rating; without a threshold ratings don't matter.

    Raises:
        UserError: There is a threshold but no rating column.
    """
    if "rating" not in events.columns:
        if min_rating is not None:
            raise UserError(
                f"data.min_rating is {min_rating}, but {path} has no rating column. Name it: data.columns.rating=…."
            )
        return events
    unreadable = events["rating"].null_count()
    if min_rating is None:
        summary["missing or non-numeric ratings (kept, no threshold set)"] = unreadable
        return events
    high = events.filter(pl.col("rating") >= min_rating)
    summary["missing or non-numeric ratings (dropped)"] = unreadable
    summary[f"ratings below {min_rating:g} (dropped)"] = events.height - high.height - unreadable
    return high


def keep_core(
    events: pl.DataFrame, min_user_events: int, min_item_events: int, summary: dict[str, Any]
) -> pl.DataFrame:
    """Keeps the core in which every user and every item has enough events."""
    keep, rounds = core(events["user"].to_numpy(), events["item"].to_numpy(), min_user_events, min_item_events)
    kept = events.filter(pl.Series(keep))
    if min_user_events > 1 or min_item_events > 1:
        name = f"events outside the core of {min_user_events} a user and {min_item_events} an item (dropped)"
        summary[name] = events.height - kept.height
        summary["rounds until the core was stable"] = rounds
    return kept


def core(users: np.ndarray, items: np.ndarray, min_user_events: int, min_item_events: int) -> tuple[np.ndarray, int]:
    """The largest set of events in which every user and item that occurs has enough of them (iterated k-core).

    Args:
        users, items: User and item of each event, int (E,), counted from 0.
        min_user_events, min_item_events: Fewest events of a user and of an item.

    Returns:
        Which events belong to it, bool (E,), and the number of rounds that dropped something.
    """
    index = np.arange(len(users))
    rounds = 0
    while len(index):
        u, i = users[index], items[index]
        keep = (np.bincount(u)[u] >= min_user_events) & (np.bincount(i)[i] >= min_item_events)
        if keep.all():
            break
        index = index[keep]
        rounds += 1
    inside = np.zeros(len(users), dtype=bool)
    inside[index] = True
    return inside, rounds


def require_events(events: pl.DataFrame, path: Path, summary: Mapping[str, Any]) -> None:
    """Refuses a data set of which nothing is left, telling which steps took it.

    Raises:
        UserError: There are no events.
    """
    if events.height:
        return
    steps = "; ".join(f"{name}: {count:,}" for name, count in summary.items() if isinstance(count, int) and count)
    raise UserError(
        f"Nothing is left of {path} after cleaning ({steps}). "
        "Loosen data.min_rating, data.min_user_events or data.min_item_events."
    )
