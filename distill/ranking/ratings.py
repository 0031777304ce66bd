"""Metrics of predicted ratings and click probabilities, for teachers with a rating or click head."""

from __future__ import annotations

import numpy as np

from distill.errors import UserError


def mae(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Mean absolute error of ratings, in the ratings' unit."""
    predicted, actual = _pair(predicted, actual)
    return float(np.abs(predicted - actual).mean())


def rmse(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Root of the mean squared error of ratings, in the ratings' unit."""
    predicted, actual = _pair(predicted, actual)
    return float(np.sqrt(((predicted - actual) ** 2).mean()))


def log_loss(probabilities: np.ndarray, clicks: np.ndarray, clip: float = 1e-15) -> float:
    """Mean negative log-likelihood of clicks, in nats; probabilities are kept `clip` away from 0 and 1.

    Raises:
        UserError: A probability outside [0, 1], or clicks other than 0 and 1.
    """
    probabilities, clicks = _pair(probabilities, clicks)
    _check_clicks(clicks)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise UserError(
            f"log_loss needs probabilities between 0 and 1, found {probabilities.min():.4g} to "
            f"{probabilities.max():.4g}: apply a sigmoid to logits first."
        )
    p = np.clip(probabilities, clip, 1 - clip)
    return float(-(clicks * np.log(p) + (1 - clicks) * np.log1p(-p)).mean())


def auc(scores: np.ndarray, clicks: np.ndarray) -> float:
    """Chance that a clicked row scores above one that isn't clicked, ties count half. nan where one kind is missing.

    Source: Hanley and McNeil (1982), by mean ranks (Mann and Whitney).

    Raises:
        UserError: Clicks other than 0 and 1.
    """
    scores, clicks = _pair(scores, clicks)
    _check_clicks(clicks)
    positives = int(clicks.sum())
    negatives = len(clicks) - positives
    if not positives or not negatives:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    above = mean_rank[group][clicks == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _pair(predicted: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise UserError(
            f"Predictions of shape {one.shape} and outcomes of shape {two.shape}; expected the same length >= 1."
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise UserError("Predictions or outcomes hold NaN or inf; expected finite numbers.")
    return one, two


def _check_clicks(clicks: np.ndarray) -> None:
    if not np.isin(clicks, (0, 1)).all():
        raise UserError("Clicks must be 0 or 1.")
