"""Every segment in one place, and what lists are worth in each."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.ranking.accuracy import ndcg, tail_ndcg
from distill.ranking.cases import Cases
from distill.ranking.judged import Judged
from distill.ranking.resampling import mean_intervals
from distill.ranking.segments import (
    ITEM_THIRDS,
    USER_THIRDS,
    active_users,
    bottom_items,
    describe,
    item_thirds,
    tail_items,
    taste_groups,
    user_thirds,
)

TASTES = ("niche", "diverse", "blockbuster")


def item_segments(cases: Cases) -> dict[str, np.ndarray]:
    """Item segments by name, masks (N,): thirds by interaction mass, both tails, and items unseen in train."""
    thirds = item_thirds(cases.popularity)
    return {
        **{name: thirds == number for number, name in enumerate(ITEM_THIRDS)},
        "outside_80_percent": tail_items(cases.popularity),
        "bottom_80_percent": bottom_items(cases.popularity),
        "unseen": cases.popularity == 0,
    }


def user_segments(cases: Cases) -> dict[str, np.ndarray]:
    """User segments by name, masks (U,): activity thirds, the 80 % activity quantile, taste groups, and cold users."""
    thirds, tastes = user_thirds(cases.activity), taste_groups(cases)
    active = active_users(cases.activity)
    return {
        **{name: thirds == number for number, name in enumerate(USER_THIRDS)},
        "top_20_percent": active,
        "other_80_percent": ~active,
        **{name: tastes == number for number, name in enumerate(TASTES)},
        "cold": cases.activity == 0,
    }


def stratum_values(judged: Judged, k: int) -> dict[str, np.ndarray]:
    """NDCG@k of each user by item third (relevance limited to it) and by user third, (U,) each; nan elsewhere."""
    items, users = item_thirds(judged.cases.popularity), user_thirds(judged.cases.activity)
    overall = ndcg(judged, k)
    return {
        **{
            f"{name} items": tail_ndcg(Judged(judged.ranked, judged.cases, items == number), k)
            for number, name in enumerate(ITEM_THIRDS)
        },
        **{f"{name} users": np.where(users == number, overall, np.nan) for number, name in enumerate(USER_THIRDS)},
    }


def by_segment(
    ranked: np.ndarray, cases: Cases, k: int, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """NDCG@k of every segment with its interval and its description.

    Item segments limit relevance to their items, over the ranking of the full catalogue; user segments limit the users.

    Args:
        ranked: Lists, int (U, K) with K >= k.
        cases: The evaluated users.
        k: Cutoff.
        resamples: Resamples of the intervals over users.
        seed: Seed of the resamples.

    Returns:
        "items" and "users", each by segment: `ndcg`, `low`, `high` (95 %), `users` who take part; for items what
        `describe` says, for users `least` and `most` train interactions in the segment, `share_of_users` and
        `share_of_interactions` (of the evaluated users).
    """
    overall = ndcg(Judged(ranked, cases, np.zeros(cases.n_items, bool)), k)
    items, users = item_segments(cases), user_segments(cases)
    columns = [tail_ndcg(Judged(ranked, cases, mask), k) for mask in items.values()]
    columns += [np.where(mask, overall, np.nan) for mask in users.values()]
    table = np.stack(columns, axis=1)
    counts = np.count_nonzero(~np.isnan(table), axis=0)
    means = np.nansum(table, axis=0) / np.where(counts > 0, counts, np.nan)
    intervals = mean_intervals(table, resamples, seed)
    cells = [
        {"ndcg": float(mean), "low": float(low), "high": float(high), "users": int(count)}
        for mean, (low, high), count in zip(means, intervals, counts, strict=True)
    ]
    return {
        "items": {n: {**describe(cases, mask), **c} for (n, mask), c in zip(items.items(), cells, strict=False)},
        "users": {
            n: {**_describe_users(cases, mask), **c}
            for (n, mask), c in zip(users.items(), cells[len(items) :], strict=True)
        },
    }


def _describe_users(cases: Cases, users: np.ndarray) -> dict[str, Any]:
    activity = cases.activity[users]
    return {
        "least": int(activity.min()) if len(activity) else 0,
        "most": int(activity.max(initial=0)),
        "share_of_users": float(users.mean()),
        "share_of_interactions": float(activity.sum() / max(int(cases.activity.sum()), 1)),
    }
