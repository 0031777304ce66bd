"""Accuracy of ranked lists: one value a user, nan for a user who doesn't take part.

Every function takes `Judged` lists and a cutoff k and returns float64 (U,). Relevance is binary. A user without
relevant items doesn't take part in any of them; a list shorter than k is not padded with misses except where the
divisor is k.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.ranking.judged import Judged, discounts


def share(part: np.ndarray, whole: np.ndarray | float) -> np.ndarray:
    """part / whole, nan where `whole` is 0."""
    whole = np.broadcast_to(np.asarray(whole, np.float64), part.shape)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def among(values: Any, relevant: np.ndarray) -> np.ndarray:
    """`values` (U,) with nan for users without relevant items."""
    return np.where(relevant > 0, values, np.nan)


def recall(judged: Judged, k: int) -> np.ndarray:
    """|L and R| / |R|."""
    return _recall(judged.hits, judged.relevant, k)


def recall_capped(judged: Judged, k: int) -> np.ndarray:
    """|L and R| / min(k, |R|): 1 is reachable for every user."""
    return share(judged.hits[:, :k].sum(1), np.minimum(k, judged.relevant))


def precision(judged: Judged, k: int) -> np.ndarray:
    """|L and R| / k, also for lists shorter than k."""
    return among(judged.hits[:, :k].sum(1) / k, judged.relevant)


def f1(judged: Judged, k: int) -> np.ndarray:
    """Harmonic mean of precision and recall: 2 |L and R| / (k + |R|)."""
    return among(2 * judged.hits[:, :k].sum(1) / (k + judged.relevant), judged.relevant)


def hit(judged: Judged, k: int) -> np.ndarray:
    """1 where the list holds at least one relevant item."""
    return _hit(judged.hits, judged.relevant, k)


def mrr(judged: Judged, k: int) -> np.ndarray:
    """1 / rank of the first relevant item, 0 without one."""
    return _mrr(judged.hits, judged.relevant, k)


def average_precision(judged: Judged, k: int) -> np.ndarray:
    """Sum of precision@r over the ranks r of the hits, divided by min(k, |R|)."""
    hits = judged.hits[:, :k]
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return share((precisions * hits).sum(1), np.minimum(k, judged.relevant))


def ndcg(judged: Judged, k: int) -> np.ndarray:
    """Normalised discounted cumulative gain: gain 1, discount 1 / log2(rank + 1), ideal of min(k, |R|) hits.

    Source: Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.
    """
    return _ndcg(judged.hits, judged.relevant, k)


def auc(judged: Judged, k: int) -> np.ndarray:
    """Limited AUC: share of (relevant, other) pairs in the right order, items below rank k in random order.

    Others are the catalogue without the user's seen and relevant items; with k >= N it is the full AUC. nan
    without others.
    Source: Schröder, Thiele and Lehner (2011), Setting goals and choosing metrics for recommender system evaluations.
    """
    hits, misses = judged.hits[:, :k], judged.listed[:, :k] & ~judged.hits[:, :k]
    others = judged.cases.n_items - judged.cases.seen.lengths - judged.relevant
    others_below = others[:, None] - np.cumsum(misses, axis=1)
    unlisted = judged.relevant - hits.sum(1)
    ordered = (hits * others_below).sum(1) + 0.5 * unlisted * (others - misses.sum(1))
    return share(ordered, judged.relevant * others)


def tail_recall(judged: Judged, k: int) -> np.ndarray:
    """|L and R and tail| / |R and tail| of users with a relevant tail item; ranks are those of the full catalogue."""
    return _recall(judged.tail_hits, judged.tail_relevant, k)


def tail_hit(judged: Judged, k: int) -> np.ndarray:
    """1 where the list holds a relevant tail item, of the users who have one."""
    return _hit(judged.tail_hits, judged.tail_relevant, k)


def tail_mrr(judged: Judged, k: int) -> np.ndarray:
    """1 / rank (in the full ranking) of the first relevant tail item, of the users who have one."""
    return _mrr(judged.tail_hits, judged.tail_relevant, k)


def tail_ndcg(judged: Judged, k: int) -> np.ndarray:
    """NDCG with relevance limited to the tail: ranks of the full ranking, ideal over min(k, |R and tail|)."""
    return _ndcg(judged.tail_hits, judged.tail_relevant, k)


def _recall(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    return share(hits[:, :k].sum(1), relevant)


def _hit(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    return among(hits[:, :k].any(1).astype(np.float64), relevant)


def _mrr(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    hits = hits[:, :k]
    return among(np.where(hits.any(1), 1.0 / (np.argmax(hits, axis=1) + 1), 0.0), relevant)


def _ndcg(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    hits = hits[:, :k]
    gain = discounts(k)
    ideal = np.concatenate([[0.0], np.cumsum(gain)])[np.minimum(k, relevant)]
    return share(hits @ gain[: hits.shape[1]], ideal)
