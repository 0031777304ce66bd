"""Is a difference between two models more than chance? Paired tests and intervals from values a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.errors import UserError
from distill.ranking.accuracy import share
from distill.ranking.resampling import check, percentiles

BLOCK_SIGNS = 2**21  # signs held at once: 16 MB as float64


def sign_flip(differences: np.ndarray, flips: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p values of the paired sign-flip randomisation test.

    Under the null hypothesis the two models' values of a user may be swapped, which flips the sign of the user's
    difference. p = (1 + number of random flips whose |sum| reaches the observed one) / (1 + flips), never 0.
    Source: Fisher (1935); Smucker, Allan and Carterette (2007), A comparison of statistical significance tests for
    information retrieval evaluation.

    Args:
        differences: Value of one model minus that of the other for each user, (U,) or (U, M) for M comparisons under
            the same flips; nan where a user doesn't take part.
        flips: Random flips.
        seed: Seed of the flips.

    Returns:
        p values, (M,); (1,) for one comparison. nan where no user takes part.

    Raises:
        UserError: There is no user or no flip.
    """
    if not len(differences) or flips < 1:
        raise UserError(f"The randomisation test needs at least 1 user and 1 flip; got {len(differences)} and {flips}.")
    table = np.asarray(differences, np.float64).reshape(len(differences), -1)
    present = ~np.isnan(table)
    filled = np.where(present, table, 0.0)
    # Sums that are equal but for rounding must count as equal: ties are common where users differ by a few values.
    reached = np.abs(filled.sum(0)) - 1e-9 * np.maximum(np.abs(filled).sum(0), np.finfo(float).tiny)
    rng = np.random.default_rng(seed)
    beyond = np.zeros(table.shape[1], np.int64)
    step = max(1, BLOCK_SIGNS // len(table))
    for first in range(0, flips, step):
        block = min(step, flips - first)
        bits = np.frombuffer(rng.bytes(-(-block * len(table) // 8)), np.uint8)
        signs = np.unpackbits(bits, count=block * len(table)).reshape(block, -1) * 2.0 - 1.0
        beyond += np.count_nonzero(np.abs(signs @ filled) >= reached, axis=0)
    return np.where(present.any(0), (1 + beyond) / (1 + flips), np.nan)


def cluster_bootstrap(
    differences: np.ndarray, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean over users and seeds, both drawn anew with replacement.

    Values of one user under several seeds, and of all users under one seed, aren't independent, so whole users and
    whole seeds are drawn. With one seed it is the bootstrap over users. With few seeds (under about ten) the
    interval over seeds is too narrow, as that of any bootstrap.
    Source: Owen (2007), The pigeonhole bootstrap.

    Args:
        differences: Values or differences, (S, U) for S seeds or (U,) for one; nan where a user doesn't take part.
        resamples: How many resamples.
        seed: Seed of the draws.
        level: Two-sided confidence level.

    Returns:
        Low and high; nan where no user takes part.
    """
    check(resamples, level)
    table = np.atleast_2d(np.asarray(differences, np.float64))
    n_seeds, users = table.shape
    present = (~np.isnan(table)).astype(np.float64)
    filled = np.nan_to_num(table)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, BLOCK_SIGNS // users)
    for first in range(0, resamples, step):
        block = min(step, resamples - first)
        by_user, by_seed = _counts(rng, block, users), _counts(rng, block, n_seeds)
        total = ((by_user @ filled.T) * by_seed).sum(1)
        means[first : first + block] = share(total, ((by_user @ present.T) * by_seed).sum(1))
    low, high = percentiles(means[:, None], level)[0]
    return float(low), float(high)


def _counts(rng: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """How often each of `size` units is drawn in each row, float64 (rows, size)."""
    drawn = rng.integers(0, size, (rows, size)) + np.arange(rows)[:, None] * size
    return np.bincount(drawn.reshape(-1), minlength=rows * size).reshape(rows, size).astype(np.float64)


def holm(p_values: np.ndarray) -> np.ndarray:
    """p values adjusted for their number by Holm's step-down method; any shape, nan stays nan and isn't counted.

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection at alpha.
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    flat = np.asarray(p_values, np.float64).reshape(-1)
    order = np.argsort(flat, kind="stable")  # nan last
    number = np.count_nonzero(~np.isnan(flat))
    adjusted = np.full(len(flat), np.nan)
    ranked = flat[order[:number]] * np.arange(number, 0, -1)
    adjusted[order[:number]] = np.minimum(np.maximum.accumulate(ranked), 1.0) if number else ranked
    return adjusted.reshape(np.shape(p_values))


def effect_size(differences: np.ndarray) -> float:
    """Standardised mean difference of paired values (Cohen's d_z): mean / standard deviation of the differences.

    nan with fewer than two users; 0 where all differences are 0; infinite where they are one other constant.
    """
    values = np.asarray(differences, np.float64).reshape(-1)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan")
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation <= 1e-15 * np.abs(values).max(initial=0.0):
        return 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    return mean / deviation


@dataclass(frozen=True)
class Paired:
    """One paired comparison, first model minus second.

    Attributes:
        difference: Mean difference over users (and seeds).
        low, high: Its 95 % cluster-bootstrap interval.
        p_value: Sign-flip p value on the users' means over seeds, not adjusted.
        effect_size: Cohen's d_z over users.
        users: Users who take part.
        seeds: Seeds compared.
    """

    difference: float
    low: float
    high: float
    p_value: float
    effect_size: float
    users: int
    seeds: int


def paired(first: np.ndarray, second: np.ndarray, flips: int = 10_000, resamples: int = 1000, seed: int = 0) -> Paired:
    """Compares values a user of two models, (U,) or (S, U) for S seeds each (seed i of one with seed i of the other).

    Raises:
        UserError: The shapes differ, so the values can't be paired.
    """
    one, two = np.atleast_2d(first), np.atleast_2d(second)
    if one.shape != two.shape:
        raise UserError(
            f"Values of shape {one.shape} and {two.shape} can't be paired: expected the same users and seeds."
        )
    differences = one - two
    by_user = mean_over_seeds(differences)
    low, high = cluster_bootstrap(differences, resamples, seed)
    some = ~np.isnan(by_user)
    return Paired(
        difference=float(by_user[some].mean()) if some.any() else float("nan"),
        low=low,
        high=high,
        p_value=float(sign_flip(by_user, flips, seed)[0]),
        effect_size=effect_size(by_user),
        users=int(np.count_nonzero(some)),
        seeds=len(one),
    )


def mean_over_seeds(table: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Mean of (S, U) over the seeds in which a user takes part, (U,); nan where there is none."""
    values = np.atleast_2d(np.asarray(table, np.float64))
    present = ~np.isnan(values)
    return share(np.where(present, values, 0.0).sum(0), present.sum(0))
