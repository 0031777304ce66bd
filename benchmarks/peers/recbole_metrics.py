"""RecBole's metric classes on the same lists: coverage, Gini, popularity, tail share, entropy, and accuracy.

Run in the `recbole` environment of setup.py, from the project's folder: `python -m benchmarks.peers.recbole_metrics`.
The classes' own methods are called, because RecBole itself counts a padding item into the catalogue and rounds.
"""

from __future__ import annotations

import sys

import numpy as np
from recbole.evaluator import metrics as recbole

from benchmarks.peers.parity import Row, report, row
from benchmarks.peers.sample import Sample, draw
from distill.ranking.evaluator import evaluate, rank
from distill.ranking.judged import Judged
from distill.ranking.segments import bottom_items

CONFIG = {"topk": [10], "metric_decimal_place": 12, "tail_ratio": 0.8}
ACCURACY = {"Hit": "hit@10", "MRR": "mrr@10", "MAP": "map@10", "Recall": "recall@10", "NDCG": "ndcg@10"}
ACCURACY |= {"Precision": "precision@10"}


def accuracy(ranked: np.ndarray, sample: Sample) -> list[Row]:
    """Top-k metrics, user by user."""
    relevant = sample.cases.truth.lengths
    ours = evaluate(ranked, sample.cases, list(ACCURACY.values()))
    hits = Judged(ranked, sample.cases, np.zeros(sample.cases.n_items, bool)).hits
    rows = []
    for name, mine in ACCURACY.items():
        metric = getattr(recbole, name)(CONFIG)
        result = metric.metric_info(hits) if name in ("Hit", "MRR", "Precision") else metric.metric_info(hits, relevant)
        rows.append(row("recbole", name, mine, result[:, 9], ours.per_user[mine]))
    return rows


def beyond(ranked: np.ndarray, sample: Sample) -> list[Row]:
    """Coverage and popularity; RecBole's entropy is in nats and divided by the number of distinct items."""
    cases, n_items = sample.cases, sample.cases.n_items
    names = ["coverage@10", "gini@10", "arp@10", "entropy@10"]
    ours = evaluate(ranked, cases, [*names, "aplt@10"], tail=bottom_items(cases.popularity)).values
    distinct = len(np.unique(ranked))
    counts = dict(enumerate(cases.popularity.tolist()))
    popularity = recbole.AveragePopularity(CONFIG)
    tail = recbole.TailPercentage(CONFIG)
    # RecBole breaks ties of popularity by the lower id for the tail, we by the higher: mirrored ids make them the same.
    mirrored = {n_items - 1 - item: count for item, count in counts.items()}
    return [
        row(
            "recbole",
            "ItemCoverage",
            "coverage@10",
            recbole.ItemCoverage(CONFIG).get_coverage(ranked, n_items),
            ours["coverage@10"],
        ),
        row("recbole", "GiniIndex", "gini@10", recbole.GiniIndex(CONFIG).get_gini(ranked, n_items), ours["gini@10"]),
        row("recbole", "AveragePopularity", "arp@10", popularity.get_pop(ranked, counts).mean(), ours["arp@10"]),
        row(
            "recbole",
            "TailPercentage (tail_ratio .8)",
            "aplt@10, bottom 80 % of items",
            tail.get_tail(n_items - 1 - ranked, mirrored).mean(),
            ours["aplt@10"],
        ),
        row(
            "recbole",
            "ShannonEntropy",
            "entropy@10 * ln 2 / distinct items",
            recbole.ShannonEntropy(CONFIG).get_entropy(ranked),
            ours["entropy@10"] * np.log(2) / distinct,
        ),
    ]


def main() -> int:
    """Compares on 2,000 users and 1,500 items."""
    sample = draw(users=2000, n_items=1500, seed=1)
    ranked = rank(sample.score, sample.cases, 10)
    return report(accuracy(ranked, sample) + beyond(ranked, sample))


if __name__ == "__main__":
    sys.exit(main())
