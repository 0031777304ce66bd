"""Segments of items and users, and results by segment; each segment comes with its threshold, size and share."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.ranking.accuracy import tail_ndcg
from distill.ranking.cases import Cases
from distill.ranking.judged import Judged
from distill.ranking.resampling import mean_intervals

ITEM_THIRDS = ("head", "mid", "tail")
USER_THIRDS = ("light", "medium", "heavy")


def tail_items(popularity: np.ndarray, share: float = 0.8) -> np.ndarray:
    """The headline tail: items outside the smallest most-popular set that holds `share` of the train interactions.

    The item whose interactions cross the share is head; equally popular items enter the head in index order; items
    unseen in train are tail.

    Args:
        popularity: Train interactions of each item, (N,).
        share: Share of the interactions that the head holds.

    Returns:
        True for tail items, bool (N,).
    """
    order = np.argsort(-np.asarray(popularity), kind="stable")
    mass = np.cumsum(popularity[order])
    head = int(np.searchsorted(mass, share * mass[-1])) + 1 if len(mass) and mass[-1] > 0 else 0
    tail = np.ones(len(popularity), bool)
    tail[order[:head]] = False
    return tail


def bottom_items(popularity: np.ndarray, share: float = 0.8) -> np.ndarray:
    """The second tail definition: the `share` of the items that are least popular, True for tail, bool (N,).

    Among equally popular items the higher index is tail first, as in `tail_items`.
    """
    order = np.argsort(-np.asarray(popularity), kind="stable")
    tail = np.ones(len(popularity), bool)
    tail[order[: len(order) - round(share * len(order))]] = False
    return tail


def item_thirds(popularity: np.ndarray) -> np.ndarray:
    """Head (0), mid (1) and tail (2) by equal interaction mass, int8 (N,).

    Head is the smallest most-popular set that holds a third of the train interactions, head and mid together the
    smallest that holds two thirds; unseen items are tail.
    """
    head, mid = tail_items(popularity, 1 / 3), tail_items(popularity, 2 / 3)
    return head.astype(np.int8) + mid.astype(np.int8)


def taste_groups(cases: Cases, popular_share: float = 0.2) -> np.ndarray:
    """Niche (0), diverse (1) and blockbuster (2) users: lowest 20 %, middle, top 20 % by share of popular items in
    the profile.

    Popular is the most popular `popular_share` of the catalogue. Equal shares are ordered by row. int8 (U,).
    Source: Abdollahpouri et al. (2019), The unfairness of popularity bias in recommendation.
    """
    popular = ~bottom_items(cases.popularity, 1 - popular_share)
    seen = cases.seen
    count = np.bincount(seen.row_numbers(), weights=popular[seen.items], minlength=len(seen))
    order = np.argsort(count / np.maximum(seen.lengths, 1), kind="stable")
    users = len(order)
    group = np.ones(users, np.int8)
    group[order[: round(0.2 * users)]] = 0
    group[order[users - round(0.2 * users) :]] = 2
    return group


def user_thirds(activity: np.ndarray) -> np.ndarray:
    """Light (0), medium (1) and heavy (2) users: thirds of the users by number of train interactions, int8 (U,).

    The cuts lie at the two tertiles, and users at a cut belong to the lighter third: users of equal activity are never
    divided, so the thirds may differ in size.
    """
    cuts = np.quantile(activity, (1 / 3, 2 / 3), method="inverted_cdf")
    return np.searchsorted(cuts, activity, side="left").astype(np.int8)


def active_users(activity: np.ndarray, quantile: float = 0.8) -> np.ndarray:
    """Head users of LLM-ESR and MELT: more train interactions than the 80 % quantile, bool (U,)."""
    return activity > np.quantile(activity, quantile, method="inverted_cdf")


def describe_tails(cases: Cases) -> dict[str, dict[str, Any]]:
    """Both tail definitions with what a reader needs to compare them with other papers.

    Returns:
        By definition: `rule`; `threshold`, the popularity of the most popular tail item; `items`, the size of the tail;
        `share_of_items`; `share_of_interactions` in train; `share_of_targets`, of all relevant pairs; `users`, with a
        relevant tail item; `unseen`, tail items without a train interaction.
    """
    rules = {
        "outside_80_percent": (tail_items, "outside the most popular set with 80 % of train interactions"),
        "bottom_80_percent": (bottom_items, "the least popular 80 % of items"),
    }
    return {name: {"rule": rule, **describe(cases, mask(cases.popularity))} for name, (mask, rule) in rules.items()}


def describe(cases: Cases, items: np.ndarray) -> dict[str, Any]:
    """Size, threshold and shares of a set of items, given as a mask (N,)."""
    popularity, truth = cases.popularity, cases.truth
    targets = items[truth.items]
    return {
        "threshold": int(popularity[items].max(initial=0)),
        "items": int(np.count_nonzero(items)),
        "share_of_items": float(items.mean()),
        "share_of_interactions": float(popularity[items].sum() / max(int(popularity.sum()), 1)),
        "share_of_targets": float(targets.mean()) if len(targets) else float("nan"),
        "users": len(np.unique(truth.row_numbers()[targets])),
        "unseen": int(np.count_nonzero(items & (popularity == 0))),
    }


def three_by_three(
    ranked: np.ndarray, cases: Cases, k: int, resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """NDCG@k by item segment and user segment: the main table.

    The ranking stays over the full catalogue; in each cell relevance is limited to the items of its segment, and the
    mean is over the users of its segment who have a relevant item there (as in `tail_ndcg`).

    Args:
        ranked: Lists, int (U, K) with K >= k.
        cases: The evaluated users.
        k: Cutoff.
        resamples: Resamples of the intervals over users.
        seed: Seed of the resamples.

    Returns:
        table[item segment][user segment] with `ndcg`, `low`, `high` (95 %), `users` (who take part) and `targets`; nan
        where nobody takes part.
    """
    items, users = item_thirds(cases.popularity), user_thirds(cases.activity)
    columns, targets = [], []
    for item_group in range(3):
        judged = Judged(ranked, cases, items == item_group)
        values = tail_ndcg(judged, k)
        for user_group in range(3):
            columns.append(np.where(users == user_group, values, np.nan))
            targets.append(int(judged.tail_relevant[users == user_group].sum()))
    table = np.stack(columns, axis=1)
    counts = np.count_nonzero(~np.isnan(table), axis=0)
    means = np.nansum(table, axis=0) / np.where(counts > 0, counts, np.nan)
    intervals = mean_intervals(table, resamples, seed)
    cells = [
        {"ndcg": float(m), "low": float(low), "high": float(high), "users": int(n), "targets": t}
        for m, (low, high), n, t in zip(means, intervals, counts, targets, strict=True)
    ]
    return {
        item_name: dict(zip(USER_THIRDS, cells[3 * row : 3 * row + 3], strict=True))
        for row, item_name in enumerate(ITEM_THIRDS)
    }
