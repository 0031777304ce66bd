"""Metrics by name: "ndcg@10", "coverage@20", or a user's own "package.module:function@10"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from distill.errors import UserError
from distill.plugins import nearest, resolve
from distill.ranking import accuracy, beyond, counterfactual
from distill.ranking.judged import Judged


@dataclass(frozen=True)
class UserMetric:
    """A mean over users. `function(judged, k)` gives float64 (U,), nan where a user doesn't take part."""

    function: Callable[[Judged, int], np.ndarray]
    higher_is_better: bool | None = True


@dataclass(frozen=True)
class PooledMetric:
    """A function of sums over users. `columns(judged, k)` is (U, C); `combine` takes sums (…, C) to values (…)."""

    columns: Callable[[Judged, int], np.ndarray]
    combine: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool | None = True


@dataclass(frozen=True)
class ExposureMetric:
    """A function of how many lists hold each item: `function(exposures (N,), judged)`.

    `loss(judged, k)`, (U,), is by how much the value falls when a user is left out: a metric that counts distinct
    items has it, because the bootstrap is too narrow there.
    """

    function: Callable[[np.ndarray, Judged], float]
    loss: Callable[[Judged, int], np.ndarray] | None = None
    higher_is_better: bool | None = True


Metric = UserMetric | PooledMetric | ExposureMetric

METRICS: dict[str, Metric] = {
    "recall": UserMetric(accuracy.recall),
    "recall_capped": UserMetric(accuracy.recall_capped),
    "precision": UserMetric(accuracy.precision),
    "f1": UserMetric(accuracy.f1),
    "hit": UserMetric(accuracy.hit),
    "mrr": UserMetric(accuracy.mrr),
    "map": UserMetric(accuracy.average_precision),
    "ndcg": UserMetric(accuracy.ndcg),
    "auc": UserMetric(accuracy.auc),
    "tail_recall": UserMetric(accuracy.tail_recall),
    "tail_recall_micro": PooledMetric(beyond.tail_recall_micro_columns, beyond.tail_recall_micro),
    "tail_hit": UserMetric(accuracy.tail_hit),
    "tail_mrr": UserMetric(accuracy.tail_mrr),
    "tail_ndcg": UserMetric(accuracy.tail_ndcg),
    "ips_recall": UserMetric(counterfactual.ips_recall),
    "snips_recall": PooledMetric(counterfactual.snips_recall_columns, counterfactual.snips_recall),
    "coverage": ExposureMetric(beyond.coverage, beyond.coverage_loss),
    "tail_coverage": ExposureMetric(beyond.tail_coverage, beyond.tail_coverage_loss),
    "coverage_5": ExposureMetric(partial(beyond.coverage, min_count=5), partial(beyond.coverage_loss, min_count=5)),
    "tail_coverage_5": ExposureMetric(
        partial(beyond.tail_coverage, min_count=5), partial(beyond.tail_coverage_loss, min_count=5)
    ),
    "gini": ExposureMetric(beyond.gini, higher_is_better=False),
    "entropy": ExposureMetric(beyond.entropy),
    "aplt": UserMetric(beyond.aplt, higher_is_better=None),
    "arp": UserMetric(beyond.arp, higher_is_better=None),
    "popularity_lift": PooledMetric(beyond.popularity_lift_columns, beyond.popularity_lift, higher_is_better=None),
    "novelty": UserMetric(beyond.novelty, higher_is_better=None),
    "epc": UserMetric(beyond.epc),
    "efd": UserMetric(beyond.efd),
    "upd": PooledMetric(beyond.upd_columns, beyond.upd, higher_is_better=False),
    "calibration": UserMetric(beyond.calibration, higher_is_better=False),
}

# What a report shows by default.
STANDARD = (
    *("ndcg@10", "recall@10", "precision@10", "hit@10", "mrr@10", "map@10", "ndcg@20", "recall@20"),
    *("tail_ndcg@10", "tail_recall@10", "tail_recall_micro@10", "tail_hit@10", "tail_coverage@10", "aplt@10"),
    *("coverage@10", "gini@10", "entropy@10", "arp@10", "popularity_lift@10", "novelty@10"),
)


@dataclass(frozen=True)
class Parsed:
    """A metric with its cutoff: name "ndcg@10" is metric "ndcg" at k = 10."""

    name: str
    metric: Metric
    k: int


def parse(name: str) -> Parsed:
    """Looks up "metric@k".

    Args:
        name: A name of `METRICS` and a cutoff of at least 1, or "package.module:function@k" with a function
            (judged, k) -> float64 (U,).

    Raises:
        UserError: The name is unknown (the nearest is suggested), or the cutoff is missing or not a positive number.
    """
    base, _, cutoff = str(name).partition("@")
    if base not in METRICS and ":" not in base:
        examples = {f"{metric}@{cutoff or 10}": metric for metric in METRICS}
        raise UserError(f"Unknown metric '{name}'{nearest(f'{base}@{cutoff or 10}', examples)}.")
    if not cutoff.isdecimal() or int(cutoff) < 1:
        raise UserError(f"Metric '{name}' needs a cutoff of at least 1, such as '{base}@10'.")
    return Parsed(str(name), METRICS.get(base) or UserMetric(resolve("metric", base)), int(cutoff))


def deepest(metrics: Sequence[str]) -> int:
    """The largest cutoff among metric names: how long the lists must be."""
    return max(parse(name).k for name in metrics)
