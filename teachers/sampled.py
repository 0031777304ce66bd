"""Softmax losses on the next item: over the whole catalogue, or over a weighted sample of a large one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def full_softmax(scores: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of labels under a softmax over the whole catalogue.

    Args:
        scores: (M, N), -inf at items that can't be recommended (the seen ones); never at the label.
        label: Item indices (M,).
        smoothing: Share of the target that is spread evenly over all items that can be recommended.

    References:
        Szegedy et al. 2016, "Rethinking the inception architecture for computer vision", section 7 (smoothing).
    """
    log_z = scores.logsumexp(-1)
    wanted = scores.gather(1, label[:, None]).squeeze(1)
    if smoothing:
        open_ = torch.isfinite(scores)
        mean = scores.masked_fill(~open_, 0.0).sum(-1) / open_.sum(-1)
        wanted = (1 - smoothing) * wanted + smoothing * mean
    return (log_z - wanted).mean()


def sampled_softmax(positive: Tensor, scores: Tensor, log_weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of labels, the softmax's sum estimated from a sample of the other items.

    log Z is estimated by log(e^positive + sum_j weight_j e^score_j); with weight_j = times drawn / (draws * q_j) the
    sum in it is unbiased whatever q is, which is the logQ correction. What was drawn and can't count (the label, seen
    items) has the score -inf.

    Args:
        positive: The labels' scores (M,).
        scores: Scores of the sampled items (M, C).
        log_weight: log weight_j of the sampled items (C,), see `draw`.
        smoothing: Share of the target that is spread evenly over all items; their mean score comes from the sample too.

    References:
        Bengio & Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic language
        model", section III; Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
        recommendations", section 3 (one sample shared by a batch, corrected by log q).
    """
    rest = (scores + log_weight).logsumexp(-1)
    wanted = positive
    if smoothing:
        weight = torch.isfinite(scores) * log_weight.exp()
        mean = (scores.masked_fill(scores.isneginf(), 0.0) * weight).sum(-1) / weight.sum(-1).clamp_min(1e-9)
        wanted = (1 - smoothing) * positive + smoothing * mean
    return (torch.logaddexp(positive, rest) - wanted).mean()


def proposal(popularity: np.ndarray, power: float) -> np.ndarray:
    """Probability q (N,) of drawing each item: proportional to (events + 1) ** power; float64."""
    weights = (np.asarray(popularity, np.float64) + 1.0) ** power
    return weights / weights.sum()


def draw(cumulative: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws items with replacement, each distinct one once with its weight.

    Args:
        cumulative: Cumulative sums of the proposal (N,); its last entry is 1 but for rounding.
        count: Draws.
        rng: Decides them.

    Returns:
        Distinct items in ascending order, int64 (C,), and log(times drawn / (count * q)), float32 (C,).
    """
    found = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    items, times = np.unique(found, return_counts=True)
    q = cumulative[items] - np.where(items > 0, cumulative[items - 1], 0.0)
    return items.astype(np.int64), np.log(times / (count * q)).astype(np.float32)
