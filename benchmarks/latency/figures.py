"""Percentiles of timed calls with bootstrap intervals, processor time and what it costs."""

from __future__ import annotations

import numpy as np

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
FEWEST = {"p99": 100, "p99.9": 1000}  # below so many calls the percentile is the maximum under another name
RESAMPLES = 200
BLOCKS = 200


def figures(nanoseconds: np.ndarray, first: int | None = None, intervals: bool = True) -> dict[str, float]:
    """Figures in milliseconds of timed calls, in the order in which they were made.

    Args:
        nanoseconds: Time of each call (n,), at least 1.
        first: Time of the very first call of the process, which is kept apart.
        intervals: Adds 95 % intervals of p50 and p99.

    Returns:
        "min", "p50", "p90", "p99", "p99.9", "mean" and "first" in milliseconds, "calls"; with intervals also "p50_low",
        "p50_high", "p99_low" and "p99_high". A percentile that so few calls can't show is left out.
    """
    values = np.asarray(nanoseconds, float) / 1e6
    wanted = {name: q for name, q in PERCENTILES.items() if len(values) >= FEWEST.get(name, 1)}
    found = dict(zip(wanted, np.percentile(values, list(wanted.values())), strict=True))
    found |= {"min": values.min(), "mean": values.mean(), "calls": len(values)}
    if first is not None:
        found["first"] = first / 1e6
    ends = {name: wanted[name] for name in ("p50", "p99") if name in wanted}
    if intervals and len(values) > 1:
        for name, (low, high) in zip(ends, percentile_intervals(values, list(ends.values())), strict=True):
            found |= {f"{name}_low": low, f"{name}_high": high}
    return {name: int(value) if name == "calls" else float(value) for name, value in found.items()}


def percentile_intervals(
    values: np.ndarray, percentiles: list[float], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """95 % bootstrap intervals of percentiles of a series of calls.

    Calls that follow each other share a cache, a clock and a neighbour, so whole blocks are drawn, not single calls
    (the non-overlapping block bootstrap of Carlstein, 1986).

    Args:
        values: One number a call, in time order (n,).
        percentiles: P of them, 0 to 100.
        resamples: Series drawn.
        seed: Of the draws.

    Returns:
        Low and high (P, 2).
    """
    blocks = np.array_split(values, min(BLOCKS, len(values)))
    size = min(map(len, blocks))
    whole = np.stack([block[:size] for block in blocks])  # (blocks, size)
    drawn = np.random.default_rng(seed).integers(0, len(whole), (resamples, len(whole)))
    found = np.percentile(whole[drawn].reshape(resamples, -1), percentiles, axis=1)  # (P, resamples)
    return np.percentile(found, [2.5, 97.5], axis=1).T


def cost(cpu_seconds: float, answers: int, core_hour_price: float) -> dict[str, float]:
    """Processor seconds and price of a million answers.

    Args:
        cpu_seconds: Processor time of the process over all its threads.
        answers: Answers given meanwhile.
        core_hour_price: What an hour of one core costs, in any currency.
    """
    million = cpu_seconds / answers * 1e6
    return {"cpu_seconds_per_million": million, "cost_per_million": million / 3600 * core_hour_price}
