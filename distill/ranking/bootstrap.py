"""Intervals over users of every kind of metric: means, ratios of sums, exposures, coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distill.ranking.accuracy import share
from distill.ranking.judged import Judged
from distill.ranking.metrics import ExposureMetric, PooledMetric, parse
from distill.ranking.resampling import check, draws, jackknife_interval, percentiles


def bootstrap(
    judged: Judged,
    metrics: Sequence[str],
    per_user: Mapping[str, np.ndarray],
    values: Mapping[str, float],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Intervals of metrics over users.

    Means and ratios get the percentile bootstrap interval. A resample repeats users and so reaches fewer distinct items
    than as many different users would: Gini and entropy are biased in it, though their spread is right, and their
    distribution is moved to be centred (its median) on the value itself before the percentiles are taken. Coverage
    counts distinct items, of which the bootstrap can lose but never find any: it gets a jackknife interval instead.

    All of them speak for other users from the same population under the same trained model. Where only a handful of
    users have a hit (tail metrics of a popularity ranker), a percentile interval is too narrow, and [0, 0] without
    any hit.

    Args:
        judged: The lists.
        metrics: Metric names.
        per_user: Values of the metrics that are means over users, (U,) each.
        values: The value of each metric.
        resamples: How many resamples; at least 2.
        seed: Seed of the draws; metrics and models under one seed see the same users.
        level: Two-sided confidence level in (0, 1).

    Returns:
        (low, high) by metric; nan where the metric is.

    Raises:
        UserError: Too few resamples or an impossible level.
    """
    check(resamples, level)
    parsed = [parse(name) for name in metrics]
    means = [p.name for p in parsed if p.name in per_user]
    pooled = [(p.name, p.metric, p.metric.columns(judged, p.k)) for p in parsed if isinstance(p.metric, PooledMetric)]
    exposed = [(p.name, p.metric, p.k) for p in parsed if isinstance(p.metric, ExposureMetric) and not p.metric.loss]
    samples: dict[str, list[np.ndarray]] = {p.name: [] for p in parsed}
    table = np.stack([per_user[name] for name in means], axis=1) if means else np.zeros((len(judged.ranked), 0))
    present = (~np.isnan(table)).astype(np.float64)
    filled = np.nan_to_num(table)
    for weights in draws(len(judged.ranked), resamples, seed):
        block = share(weights @ filled, weights @ present)
        for place, name in enumerate(means):
            samples[name].append(block[:, place])
        for name, metric, columns in pooled:
            samples[name].append(np.asarray(metric.combine(weights @ columns)))
        for k in sorted({k for _, _, k in exposed}):
            exposures = [judged.exposures(k, row) for row in weights]
            for name, exposure_metric, _ in (e for e in exposed if e[2] == k):
                samples[name].append(np.array([exposure_metric.function(e, judged) for e in exposures]))
    intervals = {}
    for p in parsed:
        if isinstance(p.metric, ExposureMetric) and p.metric.loss:
            intervals[p.name] = jackknife_interval(values[p.name], p.metric.loss(judged, p.k), level)
            continue
        drawn = np.concatenate(samples[p.name])
        if isinstance(p.metric, ExposureMetric):
            drawn = drawn + (values[p.name] - np.median(drawn))
        low, high = percentiles(drawn[:, None], level)[0]
        intervals[p.name] = (float(low), float(high))
    return intervals
