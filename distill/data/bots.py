"""Users whose rates no person has."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from distill.config import Bots

ENOUGH = 20  # events below which a rate says nothing


def improbable_users(users: np.ndarray, seconds: np.ndarray | None, rules: Bots) -> dict[str, np.ndarray]:
    """Finds users by the three rules.

    Args:
        users: User of each event, int (E,), ascending.
        seconds: Time of each event, int64 (E,), ascending within a user; None where there are no times, which leaves
            the rule on counts alone.
        rules: Their limits.

    Returns:
        Rule to the users it finds: "events a minute", "equal intervals", "events".
    """
    counts = np.bincount(users)
    found = {}
    if seconds is not None and len(users):
        enough = np.flatnonzero(counts >= ENOUGH)
        ends = np.cumsum(counts)
        begins = ends - counts
        if rules.events_per_minute > 0:
            span = np.maximum(seconds[ends[enough] - 1] - seconds[begins[enough]], 1) / 60
            found["events a minute"] = enough[counts[enough] / span > rules.events_per_minute]
        if rules.equal_intervals > 0:
            found["equal intervals"] = _regular_users(users, seconds, counts, enough, rules.equal_intervals)
    if 0 < rules.quantile < 1:
        limit = np.quantile(counts[counts > 0], rules.quantile, method="inverted_cdf")
        found["events"] = np.flatnonzero(counts > limit)
    return found


def _regular_users(
    users: np.ndarray, seconds: np.ndarray, counts: np.ndarray, enough: np.ndarray, limit: float
) -> np.ndarray:
    """Users of `enough` whose steps in time have, at a share of `limit` at least, one length above 0.

    Of n steps of which a share s are equal, (2s - 1)n - 1 neighbours at least are equal too: few users have so many,
    and only theirs are counted by length.
    """
    steps = np.diff(seconds)
    same = (users[2:] == users[:-2]) & (steps[1:] == steps[:-1]) & (steps[1:] > 0)
    neighbours = np.bincount(users[2:][same], minlength=len(counts))
    suspects = np.zeros(len(counts), bool)
    suspects[enough] = neighbours[enough] >= (2 * limit - 1) * (counts[enough] - 1) - 1 - 1e-9
    inside = suspects[users[1:]] & (users[1:] == users[:-1]) & (steps > 0)
    lengths = pl.DataFrame({"user": users[1:][inside], "step": steps[inside]})
    commonest = lengths.group_by("user", "step").len().group_by("user").agg(pl.col("len").max()).sort("user")
    suspect = commonest["user"].to_numpy()
    return suspect[commonest["len"].to_numpy() / (counts[suspect] - 1) >= limit].astype(np.int64)


def treat_bots(
    events: pl.DataFrame, seconds: np.ndarray | None, rules: Bots, drop: bool, summary: dict[str, Any]
) -> pl.DataFrame:
    """Counts improbable users, and drops them only where that is asked for.

    Args:
        events: Sorted by `cleaning.sort_events`.
        seconds: Time of each event, (E,), or None.
        rules: What is improbable.
        drop: Whether their events go.
        summary: Gets the counts.
    """
    users = events["user"].to_numpy()
    found = improbable_users(users, seconds, rules)
    fate = "dropped" if drop else "kept"
    for rule, which in found.items():
        if len(which) or drop:
            summary[f"users improbable by {rule} ({fate})"] = len(which)
    everyone = np.unique(np.concatenate([*found.values(), np.empty(0, np.int64)])).astype(np.int64)
    if not drop or not len(everyone):
        return events
    bot = np.zeros(int(users.max()) + 1, bool)
    bot[everyone] = True
    kept = events.filter(pl.Series(~bot[users]))
    summary["events of improbable users (dropped)"] = events.height - kept.height
    return kept
