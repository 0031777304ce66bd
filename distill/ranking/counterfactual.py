"""Recall corrected for popularity bias in what was observed: inverse-propensity estimates."""

from __future__ import annotations

import numpy as np

from distill.ranking.accuracy import share
from distill.ranking.judged import Judged

GAMMA = 1.5
CLIP = 0.05


def propensities(popularity: np.ndarray, gamma: float = GAMMA, clip: float = CLIP) -> np.ndarray:
    """Chance that an interaction with each item is observed, relative to the most popular item, float64 (N,).

    (popularity / max popularity) ** ((gamma + 1) / 2), at least `clip` (0 < clip <= 1), which bounds every weight by
    1 / clip. Source: Yang et al. (2018), Unbiased offline recommender evaluation for missing-not-at-random implicit
    feedback.
    """
    top = max(int(np.max(popularity, initial=0)), 1)
    return np.maximum((popularity / top) ** ((gamma + 1) / 2), clip)


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 (Kish): how many equally weighted interactions the weighted ones are worth."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def ips_recall(judged: Judged, k: int, gamma: float = GAMMA, clip: float = CLIP) -> np.ndarray:
    """Sum of 1 / propensity over the hits, divided by |R|; not bounded by 1, of use only between models. (U,)."""
    return share(_weighted_hits(judged, k, gamma, clip), judged.relevant)


def snips_recall_columns(judged: Judged, k: int, gamma: float = GAMMA, clip: float = CLIP) -> np.ndarray:
    """Sum of 1 / propensity over the hits, and over R, of each user, (U, 2)."""
    truth = judged.cases.truth
    weight = 1.0 / propensities(judged.cases.popularity, gamma, clip)
    total = np.bincount(truth.row_numbers(), weights=weight[truth.items], minlength=len(truth))
    return np.stack([_weighted_hits(judged, k, gamma, clip), total], axis=1)


def snips_recall(sums: np.ndarray) -> np.ndarray:
    """Self-normalised over all users: sum of 1 / propensity over the hits / the same sum over R, between 0 and 1.

    It estimates the recall of all relevant pairs, observed or not, if observation depends on popularity as assumed.
    The sums are over users and not within each: a user with one relevant item would have plain recall whatever the
    weight.
    Source: Swaminathan and Joachims (2015), The self-normalized estimator for counterfactual learning.
    """
    return share(sums[..., 0], sums[..., 1])


def _weighted_hits(judged: Judged, k: int, gamma: float, clip: float) -> np.ndarray:
    weight = 1.0 / propensities(judged.cases.popularity, gamma, clip)
    return (weight[judged.items[:, :k]] * judged.hits[:, :k]).sum(1)


def truth_sample_size(judged: Judged, gamma: float = GAMMA, clip: float = CLIP) -> float:
    """Effective sample size of all relevant pairs under the weights of `ips_recall` and `snips_recall`."""
    return effective_sample_size(1.0 / propensities(judged.cases.popularity, gamma, clip)[judged.cases.truth.items])
