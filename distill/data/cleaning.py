"""Raw interactions to clean ones; each step counts what it did in `summary`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from distill.data.sorting import first_places, order_by
from distill.errors import UserError

SPREAD = 4  # ids that reach so many times as far as there are rows still get a table


def drop_incomplete(events: pl.DataFrame, summary: dict[str, Any]) -> pl.DataFrame:
    """Drops rows without a user or item id, and rows without a time where the file has times."""
    identified = events.filter(pl.col("user_id").is_not_null() & pl.col("item_id").is_not_null())
    summary["rows without a user or item id (dropped)"] = events.height - identified.height
    if "order" not in events.columns:
        return identified
    timed = identified.filter(pl.col("order").is_not_null())
    summary["rows without a time (dropped)"] = identified.height - timed.height
    return timed


def forget_ratings(events: pl.DataFrame) -> pl.DataFrame:
    """Keeps of ratings only whether there is one, a bit a row, where their values decide nothing."""
    if "rating" not in events.columns:
        return events
    return events.with_columns(rating=pl.when(pl.col("rating").is_not_null()).then(True))


def encode(events: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """Replaces ids by numbers in order of first appearance.

    Args:
        events: With user_id and item_id, strings or integers.

    Returns:
        The events with `user` and `item` (int32) in place of the ids, and the ids of the numbers as strings.
    """
    codes, names = {}, {}
    for column in ("user", "item"):
        ids = events[f"{column}_id"]
        codes[column], unique = _numbered(ids)
        names[column] = unique.cast(pl.String).rename(f"{column}_id")
        events = events.drop(f"{column}_id")  # frees the ids before the next column is numbered
        del ids, unique
    return events.with_columns(pl.Series(name, code) for name, code in codes.items()), names["user"], names["item"]


def _numbered(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """The number of each id, int32 (E,), and the ids in order of first appearance."""
    if ids.dtype.is_integer() and len(ids):
        lowest, highest = int(ids.min()), int(ids.max())  # type: ignore[arg-type]
        if lowest > -(2**62) and highest < 2**62:
            values = ids.cast(pl.Int64).to_numpy()
            if highest - lowest < SPREAD * len(ids):  # a table instead of a dictionary
                codes, places = first_places(values - lowest)
                return codes, pl.Series(places + lowest)
            known = np.unique(values)
            codes, places = first_places(np.searchsorted(known, values))
            return codes, pl.Series(known[places])
    # A dictionary of its own: the codes of a shared one would depend on what was read before.
    coded = ids.cast(pl.String).cast(pl.Categorical(pl.Categories.random()))
    unique = coded.unique(maintain_order=True)
    codes = coded.to_physical().to_numpy()
    number = np.empty(int(codes.max(initial=0)) + 1, np.int32)
    number[unique.to_physical().to_numpy()] = np.arange(len(unique), dtype=np.int32)
    return number[codes], unique.cast(pl.String)


def sort_events(events: pl.DataFrame) -> pl.DataFrame:
    """Sorts by user and, within a user, by time; equal times, and all where there are no times, keep the file's order.

    Args:
        events: With `user` (numbers from 0) and, where the file has times, `order`.
    """
    if "order" not in events.columns:
        return events.sort("user", maintain_order=True)
    if not events["order"].dtype.is_integer():
        return events.sort("user", "order", maintain_order=True)
    users = events["user"].to_numpy()
    index = pl.Series(order_by(users, events["order"].to_numpy()).astype(np.uint32))
    counts = np.bincount(users)
    ascending = pl.Series("user", np.repeat(np.arange(len(counts), dtype=np.int32), counts))
    # Rows fetched from all over a large table are most of the work, so what is known without is not fetched.
    return events.select(pl.exclude("user").gather(index)).with_columns(ascending).select(events.columns)


def drop_repeats(events: pl.DataFrame, keep: Literal["first", "last", "sum"], summary: dict[str, Any]) -> pl.DataFrame:
    """Keeps one event a (user, item) pair: the first or the last in time.

    Args:
        events: Sorted by `sort_events`.
        keep: "sum" keeps the last with the ratings of all added up (play counts); a missing rating counts as 0.
        summary: Gets the count.
    """
    if keep == "sum" and "rating" in events.columns:
        pair = ["user", "item"]
        total = pl.col("rating").sum().over(pair)
        known = pl.col("rating").is_not_null().any().over(pair)
        events = events.with_columns(rating=pl.when(known).then(total))
    unique = events.filter(
        pl.Series(_one_a_pair(events["user"].to_numpy(), events["item"].to_numpy(), keep == "first"))
    )
    fate = "kept the last, ratings added up" if keep == "sum" else f"kept the {keep}"
    summary[f"repeated user-item pairs ({fate})"] = events.height - unique.height
    return unique


def _one_a_pair(users: np.ndarray, items: np.ndarray, first: bool) -> np.ndarray:
    """The first or the last row of each pair, bool (E,)."""
    order = order_by(users, items)
    users, items = users[order], items[order]
    edge = np.ones(len(order) + 1, bool)  # between a row and the one before it
    edge[1:-1] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    chosen = np.zeros(len(order), bool)
    chosen[order[edge[:-1] if first else edge[1:]]] = True
    return chosen


def cap(events: pl.DataFrame, max_user_events: int, max_item_events: int, summary: dict[str, Any]) -> pl.DataFrame:
    """Keeps the latest events of each user, then of each item; 0 sets no limit.

    Args:
        events: Sorted by `sort_events`. Without times an item's latest events are those of the latest users.
        max_user_events, max_item_events: Most events of a user and of an item.
        summary: Gets the counts where there is a limit.
    """
    if max_user_events:
        users = events["user"].to_numpy()
        counts = np.bincount(users)
        left = np.repeat(np.cumsum(counts)[counts > 0], counts[counts > 0]) - np.arange(len(users))
        kept = events.filter(pl.Series(left <= max_user_events))
        summary[f"events beyond a user's latest {max_user_events:,} (dropped)"] = events.height - kept.height
        events = kept
    if max_item_events:
        items = events["item"].to_numpy()
        order = events["order"].to_numpy() if "order" in events.columns else np.arange(len(items))
        by_item = np.lexsort((order, items))
        counts = np.bincount(items)
        left = np.empty(len(items), np.int64)
        left[by_item] = np.repeat(np.cumsum(counts), counts) - np.arange(len(items))
        kept = events.filter(pl.Series(left <= max_item_events))
        summary[f"events beyond an item's latest {max_item_events:,} (dropped)"] = events.height - kept.height
        events = kept
    return events


def weigh(
    events: pl.DataFrame, weight: Literal["none", "rating", "log"], path: Path, summary: dict[str, Any]
) -> pl.DataFrame:
    """Turns ratings or counts into weights of implicit events: r, or log(1 + r).

    Source: Hu, Koren and Volinsky (2008), Collaborative filtering for implicit feedback datasets.

    Raises:
        UserError: There is no rating column, or a rating is negative.
    """
    if weight == "none":
        return events
    if "rating" not in events.columns:
        raise UserError(f"data.weight is '{weight}', but {path} has no rating column. Name it: data.columns.rating=….")
    rated = events.filter(pl.col("rating").is_not_null())
    if rated.height and (lowest := float(rated["rating"].min())) < 0:  # type: ignore[arg-type]
        raise UserError(
            f"data.weight is '{weight}', but {path} has ratings down to {lowest}; weights can't be negative. "
            "Set data.min_rating=0, or data.weight=none."
        )
    summary["events without a rating to weigh by (dropped)"] = events.height - rated.height
    expression = pl.col("rating") if weight == "rating" else (1 + pl.col("rating")).log()
    return rated.with_columns(weight=expression.cast(pl.Float32))


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
        "Loosen data.min_rating, data.min_user_events, data.min_item_events or data.drop_bots."
    )
