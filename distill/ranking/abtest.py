"""A/B tests of click-through and conversion rates: how many users, and a test that may be watched every day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from distill.errors import UserError


@dataclass(frozen=True)
class Arm:
    """What the users of one arm did. The user is the unit of randomisation, so it's the unit of the variance too.

    Attributes:
        successes: Clicks (for ctr) or conversions (for cvr) of each user, (U,).
        trials: Impressions (for ctr) or clicks (for cvr) of each user, (U,).
    """

    successes: np.ndarray
    trials: np.ndarray

    def rate(self) -> tuple[float, float]:
        """Sum of successes / sum of trials, and the variance of that ratio by the delta method.

        Impressions of one user aren't independent; the binomial variance of pooled impressions would be too small.
        Source: Deng, Knoblich and Lu (2018), Applying the delta method in metric analytics.

        Raises:
            UserError: Fewer than two users, no trial at all, or arrays of different length.
        """
        x, n = np.asarray(self.successes, np.float64), np.asarray(self.trials, np.float64)
        if x.shape != n.shape or x.ndim != 1 or len(x) < 2 or n.sum() <= 0:
            raise UserError(
                "An arm needs at least two users, one trial, and successes and trials of each user; got shapes "
                f"{x.shape} and {n.shape} with {n.sum():.0f} trials."
            )
        rate = float(x.sum() / n.sum())
        residuals = x - rate * n
        return rate, float((residuals**2).sum() * len(x) / (len(x) - 1) / n.sum() ** 2)


def sample_size(
    baseline: float, effect: float, *, alpha: float = 0.05, power: float = 0.8, design_effect: float = 1.0
) -> int:
    """Trials an arm to find a difference between two rates with a fixed-horizon two-sided z test.

    n = (z_{1 - alpha/2} sqrt(2 p q) + z_power sqrt(p1 q1 + p2 q2))^2 / (p2 - p1)^2, p the mean of both rates.
    Source: Fleiss, Levin and Paik (2003), Statistical methods for rates and proportions; R's power.prop.test.

    Args:
        baseline: Rate of the control, in (0, 1).
        effect: Absolute difference to be found, not 0; baseline + effect in (0, 1).
        alpha: Chance of a false alarm.
        power: Chance of finding the effect.
        design_effect: 1 + (m - 1) rho for m impressions a user with intra-user correlation rho; 1 if a user is one
            trial.

    Raises:
        UserError: A rate, level or power out of range.
    """
    other = baseline + effect
    if not (0 < baseline < 1 and 0 < other < 1 and effect and 0 < alpha < 1 and 0 < power < 1 and design_effect >= 1):
        raise UserError(
            f"No sample size for baseline {baseline} and effect {effect} (alpha {alpha}, power {power}, design effect "
            f"{design_effect}): both rates, alpha and power must lie between 0 and 1, the effect must not be 0, and "
            "the design effect is at least 1."
        )
    normal, mean = NormalDist(), (baseline + other) / 2
    spread = normal.inv_cdf(1 - alpha / 2) * math.sqrt(2 * mean * (1 - mean))
    spread += normal.inv_cdf(power) * math.sqrt(baseline * (1 - baseline) + other * (1 - other))
    return math.ceil(design_effect * (spread / effect) ** 2)


@dataclass(frozen=True)
class Monitored:
    """A difference watched over time, valid at every look and at any moment of stopping.

    Attributes:
        low, high: Confidence sequence of the difference, (T,): the intersection of all intervals so far. Where low >
            high the intervals so far contradict each other (a rare event, or an effect that changes over time).
        p_value: Always-valid p values, (T,), never rising.
    """

    low: np.ndarray
    high: np.ndarray
    p_value: np.ndarray


def always_valid(differences: np.ndarray, variances: np.ndarray, effect: float, alpha: float = 0.05) -> Monitored:
    """The mixture sequential probability ratio test: stop whenever p <= alpha, however often you look.

    The likelihood ratio of the difference d with variance V is mixed over a normal prior of the effect, N(0, tau^2):
    L = sqrt(V / (V + tau^2)) exp(tau^2 d^2 / (2 V (V + tau^2))), and p = min over looks of 1 / L. The test relies on d
    being nearly normal: begin to look after some dozens of successes in each arm.
    Source: Robbins (1970); Johari, Koomen, Pekelis and Walsh (2022), Always valid inference, Operations Research 70(3).

    Args:
        differences: Treatment minus control at each look, (T,).
        variances: Variance of the difference at each look, (T,), above 0.
        effect: tau, the size of effect expected; the test is valid with any, and fastest near the true one.
        alpha: Level of the confidence sequence.

    Raises:
        UserError: A variance or the effect isn't positive.
    """
    d, v = np.atleast_1d(np.asarray(differences, np.float64)), np.atleast_1d(np.asarray(variances, np.float64))
    if d.shape != v.shape or not (v > 0).all() or effect <= 0 or not 0 < alpha < 1:
        raise UserError(
            "A sequential test needs a variance above 0 at each look, an effect above 0 and alpha in (0, 1). A "
            "variance of 0 means that there are no successes yet: wait for some dozens."
        )
    tau = effect**2
    log_ratio = 0.5 * np.log(v / (v + tau)) + tau * d**2 / (2 * v * (v + tau))
    radius = np.sqrt(2 * v * (v + tau) / tau * (math.log(1 / alpha) + 0.5 * np.log((v + tau) / v)))
    return Monitored(
        low=np.maximum.accumulate(d - radius),
        high=np.minimum.accumulate(d + radius),
        p_value=np.minimum.accumulate(np.minimum(np.exp(-log_ratio), 1.0)),
    )


def difference(control: Arm, treatment: Arm) -> tuple[float, float]:
    """Treatment's rate minus control's, and its variance: one look of `always_valid`."""
    (before, before_variance), (after, after_variance) = control.rate(), treatment.rate()
    return after - before, before_variance + after_variance
