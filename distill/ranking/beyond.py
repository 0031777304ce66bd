"""Beyond accuracy: popularity, novelty, exposure, coverage, calibration.

User-level functions take (`Judged`, k) and return float64 (U,), nan for a user with an empty list. Exposure-level
functions take counts (N,) (how many lists hold each item) and return one number. Pooled functions return columns
(U, C) whose sums over users are combined by a function of their own.
"""

from __future__ import annotations

import numpy as np

from distill.errors import UserError
from distill.ranking.accuracy import share
from distill.ranking.judged import Judged, discounts
from distill.ranking.segments import item_thirds, taste_groups


def _mean_over_list(values: np.ndarray, judged: Judged, k: int) -> np.ndarray:
    """Mean of a value of each item (N,) over each list; nan for an empty one."""
    listed = judged.listed[:, :k]
    return share((values[judged.items[:, :k]] * listed).sum(1), listed.sum(1))


def aplt(judged: Judged, k: int) -> np.ndarray:
    """Share of tail items in the list (average percentage of long-tail items). Abdollahpouri et al. (2019)."""
    return _mean_over_list(judged.tail.astype(np.float64), judged, k)


def arp(judged: Judged, k: int) -> np.ndarray:
    """Mean train popularity of the list (average recommendation popularity). Yin et al. (2012)."""
    return _mean_over_list(judged.cases.popularity.astype(np.float64), judged, k)


def self_information(judged: Judged, total: float) -> np.ndarray:
    """-log2(popularity / total) of each item in bits, (N,); an unseen item counts as seen once and stays finite."""
    return -np.log2(np.maximum(judged.cases.popularity, 1) / total)


def novelty(judged: Judged, k: int) -> np.ndarray:
    """Mean -log2(popularity / train users) over the list, in bits. Zhou et al. (2010): mean self-information."""
    return _mean_over_list(self_information(judged, max(judged.cases.n_train_users, 1)), judged, k)


def epc(judged: Judged, k: int) -> np.ndarray:
    """Expected popularity complement of the hits, discounted by rank.

    sum_r d(r) rel(r) (1 - popularity / train users) / sum_{r <= k} d(r), d(r) = 1 / log2(r + 1).
    Source: Vargas and Castells (2011), Rank and relevance in novelty and diversity metrics.
    """
    return _discovery(1.0 - judged.cases.popularity / max(judged.cases.n_train_users, 1), judged, k)


def efd(judged: Judged, k: int) -> np.ndarray:
    """Expected free discovery of the hits, discounted by rank, in bits.

    sum_r d(r) rel(r) (-log2(popularity / train interactions)) / sum_{r <= k} d(r). Source: as `epc`.
    """
    return _discovery(self_information(judged, max(int(judged.cases.popularity.sum()), 1)), judged, k)


def _discovery(values: np.ndarray, judged: Judged, k: int) -> np.ndarray:
    hits, gain = judged.hits[:, :k], discounts(k)
    total = (values[judged.items[:, :k]] * hits) @ gain[: hits.shape[1]] / gain.sum()
    return np.where(judged.relevant > 0, total, np.nan)


def calibration(judged: Judged, k: int, alpha: float = 0.01) -> np.ndarray:
    """Miscalibration KL(p || (1 - alpha) q + alpha p) in nats, 0 is best; p and q are category shares of profile
    and list.

    An item with several categories gives each an equal share of itself. nan where the profile or the list has no
    item with a category. Source: Steck (2018), Calibrated recommendations.

    Raises:
        UserError: The cases have no categories.
    """
    categories = judged.cases.categories
    if categories is None:
        raise UserError("'calibration' needs item categories (genres), and this data set's cases have none.")
    n_categories = int(categories.items.max(initial=-1)) + 1
    weights = np.zeros((judged.cases.n_items, n_categories))
    weights[categories.row_numbers(), categories.items] = np.repeat(
        share(np.ones(len(categories)), categories.lengths), categories.lengths
    )
    seen, listed = judged.cases.seen, judged.listed[:, :k]
    profile = _rows_sum(weights, seen.items, seen.row_numbers(), len(seen))
    lists = _rows_sum(weights, judged.items[:, :k][listed], np.nonzero(listed)[0], len(seen))
    p, q = (share(x, x.sum(1, keepdims=True)) for x in (profile, lists))
    ratio = np.divide(p, (1 - alpha) * q + alpha * p, out=np.ones_like(p), where=p > 0)
    empty = (profile.sum(1) == 0) | (lists.sum(1) == 0)
    return np.where(empty, np.nan, (np.nan_to_num(p) * np.log(ratio)).sum(1))


def _rows_sum(weights: np.ndarray, items: np.ndarray, rows: np.ndarray, n_rows: int) -> np.ndarray:
    """Sum of weights[items] (N, G) by row, (n_rows, G)."""
    columns = [np.bincount(rows, weights=weights[items, g], minlength=n_rows) for g in range(weights.shape[1])]
    return np.stack(columns, axis=1) if columns else np.zeros((n_rows, 0))


def coverage(exposures: np.ndarray, judged: Judged, min_count: int = 1) -> float:
    """Share of the catalogue in at least `min_count` lists."""
    return np.count_nonzero(exposures >= min_count) / len(exposures)


def tail_coverage(exposures: np.ndarray, judged: Judged, min_count: int = 1) -> float:
    """Share of the tail in at least `min_count` lists; nan without tail items."""
    size = int(np.count_nonzero(judged.tail))
    return np.count_nonzero(exposures[judged.tail] >= min_count) / size if size else np.nan


def coverage_loss(judged: Judged, k: int, min_count: int = 1) -> np.ndarray:
    """By how much the coverage falls when a user is left out, (U,): items that need this user's list to be covered."""
    return _needed(judged, k, min_count, np.ones(judged.cases.n_items, bool))


def tail_coverage_loss(judged: Judged, k: int, min_count: int = 1) -> np.ndarray:
    """By how much the tail coverage falls when a user is left out, (U,)."""
    return _needed(judged, k, min_count, judged.tail)


def _needed(judged: Judged, k: int, min_count: int, counted: np.ndarray) -> np.ndarray:
    barely = (judged.exposures(k) == min_count) & counted
    needed = (barely[judged.items[:, :k]] & judged.listed[:, :k]).sum(1)
    return share(needed, float(np.count_nonzero(counted)))


def gini(exposures: np.ndarray, judged: Judged) -> float:
    """Gini index of the exposures over all N items, zeros included: sum_j (2j - N - 1) e_(j) / (N sum e), ascending.

    0 is equal exposure, 1 - 1/N one single item. nan without any listed item.
    """
    ascending = np.sort(exposures)
    total, n = ascending.sum(), len(ascending)
    return float((2.0 * np.arange(1, n + 1) - n - 1) @ ascending / (n * total)) if total > 0 else np.nan


def entropy(exposures: np.ndarray, judged: Judged) -> float:
    """Shannon entropy of the exposure shares, in bits; log2 N is equal exposure. nan without any listed item."""
    shares = exposures[exposures > 0] / exposures.sum() if exposures.any() else np.array([np.nan])
    return float(-(shares * np.log2(shares)).sum())


def popularity_lift_columns(judged: Judged, k: int) -> np.ndarray:
    """Mean popularity of list and of profile of the users who have both, (U, 2)."""
    seen = judged.cases.seen
    total = np.bincount(seen.row_numbers(), weights=judged.cases.popularity[seen.items], minlength=len(seen))
    both = np.stack([arp(judged, k), share(total, seen.lengths)], axis=1)
    return np.where(np.isnan(both).any(1, keepdims=True), 0.0, both)


def popularity_lift(sums: np.ndarray) -> np.ndarray:
    """(ARP of lists - ARP of profiles) / ARP of profiles: the popularity lift of Abdollahpouri et al. (2020)."""
    return share(sums[..., 0] - sums[..., 1], sums[..., 1])


def tail_recall_micro_columns(judged: Judged, k: int) -> np.ndarray:
    """Tail hits and relevant tail items, (U, 2)."""
    return np.stack([judged.tail_hits[:, :k].sum(1), judged.tail_relevant], axis=1).astype(np.float64)


def tail_recall_micro(sums: np.ndarray) -> np.ndarray:
    """Sum of tail hits / sum of relevant tail items."""
    return share(sums[..., 0], sums[..., 1])


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of distributions (…, C) in bits, 0..1."""
    middle = (p + q) / 2

    def relative(x: np.ndarray) -> np.ndarray:
        ratio = np.divide(x, middle, out=np.ones_like(x), where=x > 0)
        return (x * np.log2(ratio)).sum(-1)

    return (relative(p) + relative(q)) / 2


def upd_columns(judged: Judged, k: int) -> np.ndarray:
    """Divergence of each user and a 1, each in the columns of the user's taste group, (U, 6); 0 elsewhere."""
    thirds, seen = item_thirds(judged.cases.popularity), judged.cases.seen
    listed = judged.listed[:, :k]
    rows = np.nonzero(listed)[0]
    mixes = []
    for row, item in ((seen.row_numbers(), seen.items), (rows, judged.items[:, :k][listed])):
        counts = np.bincount(row * 3 + thirds[item], minlength=3 * len(seen)).reshape(-1, 3).astype(np.float64)
        mixes.append(share(counts, counts.sum(1, keepdims=True)))
    takes_part = ~(np.isnan(mixes[0]).any(1) | np.isnan(mixes[1]).any(1))
    group = taste_groups(judged.cases)
    columns = np.zeros((len(seen), 6))
    users = np.flatnonzero(takes_part)
    columns[users, group[users]] = jensen_shannon(mixes[0][users], mixes[1][users])
    columns[users, 3 + group[users]] = 1.0
    return columns


def upd(sums: np.ndarray) -> np.ndarray:
    """Mean over the taste groups (niche, diverse, blockbuster) of the mean divergence between profile and list mixes.

    The mix is the share of head, mid and tail thirds. Source: Abdollahpouri et al. (2021), User-centered evaluation of
    popularity bias in recommender systems.
    """
    groups = share(sums[..., :3], sums[..., 3:])
    present = ~np.isnan(groups)
    return share(np.where(present, groups, 0.0).sum(-1), present.sum(-1))
