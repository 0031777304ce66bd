"""Users drawn anew, with replacement: the draws and the intervals of plain means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from distill.errors import UserError
from distill.ranking.accuracy import share

DRAWS = 2**22  # draws held at once: 32 MB


def draws(users: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is drawn in each resample, blocks of float64 (b, U); the same for the same seed."""
    rng = np.random.default_rng(seed)
    step = max(1, min(64, DRAWS // users))
    for first in range(0, resamples, step):
        block = min(step, resamples - first)
        drawn = (
            rng.integers(0, users, (block, users), dtype=np.int32) + np.arange(block, dtype=np.int64)[:, None] * users
        )
        yield np.bincount(drawn.reshape(-1), minlength=block * users).reshape(block, users).astype(np.float64)


def check(resamples: int, level: float) -> None:
    """Refuses too few resamples and impossible levels."""
    if resamples < 2 or not 0 < level < 1:
        raise UserError(
            f"Intervals need at least 2 resamples and a level between 0 and 1; got {resamples} and {level}."
        )


def percentiles(samples: np.ndarray, level: float) -> np.ndarray:
    """Two-sided percentile interval of each column of samples (B, M), nan left out; (M, 2), nan where all are nan."""
    result = np.full((samples.shape[1], 2), np.nan)
    some = ~np.isnan(samples).all(0)
    if some.any():
        result[some] = np.nanquantile(samples[:, some], ((1 - level) / 2, (1 + level) / 2), axis=0).T
    return result


def jackknife_interval(value: float, losses: np.ndarray, level: float) -> tuple[float, float]:
    """Normal interval of a share with the delete-one jackknife's variance, within 0..1.

    The jackknife's variance is never too small on average, whatever the statistic.
    Source: Efron and Stein (1981), The jackknife estimate of variance.

    Args:
        value: The statistic.
        losses: By how much it falls when each unit is left out, (U,).
        level: Two-sided confidence level.
    """
    users = len(losses)
    deviation = math.sqrt((users - 1) / users * float(((losses - losses.mean()) ** 2).sum()))
    radius = NormalDist().inv_cdf((1 + level) / 2) * deviation
    return max(value - radius, 0.0), min(value + radius, 1.0)


def mean_intervals(table: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """Bootstrap intervals of the mean of each column over users.

    Args:
        table: Values (U, M), nan where a user doesn't take part in a column.
        resamples: How many resamples.
        seed: Seed of the draws.
        level: Two-sided confidence level.

    Returns:
        Low and high, (M, 2).
    """
    check(resamples, level)
    present = (~np.isnan(table)).astype(np.float64)
    filled = np.nan_to_num(table)
    samples = [share(w @ filled, w @ present) for w in draws(len(table), resamples, seed)]
    return percentiles(np.concatenate(samples), level)
