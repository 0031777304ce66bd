"""Full-catalogue evaluation from the same factor matrices: users a second, ours beside implicit's and cornac's.

Run in the `libraries` environment of setup.py, from the project's folder: `python -m benchmarks.peers.speed`.
Rounds go in turn, so that a busy neighbour slows all alike; the best round of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import cornac
import implicit.evaluation
import numpy as np
from cornac.eval_methods.base_method import ranking_eval
from threadpoolctl import threadpool_limits

from benchmarks.peers.accuracy import factors_in_implicit, matrix
from benchmarks.peers.sample import Sample, draw
from distill.data.dataset import Lists
from distill.ranking.evaluator import evaluate, rank
from distill.ranking.metrics import STANDARD, deepest


class Factors(cornac.models.Recommender):
    """A cornac model with ready factors."""

    def __init__(self, sample: Sample) -> None:
        super().__init__(name="factors", trainable=False)
        self.sample = sample

    def score(self, user_idx: int, item_idx: int | None = None) -> np.ndarray:
        """Scores of all items, or of one."""
        items = self.sample.item_vectors if item_idx is None else self.sample.item_vectors[item_idx]
        return items @ self.sample.user_vectors[user_idx]


def in_cornac(lists: Lists, n_items: int) -> cornac.data.Dataset:
    """Lists as a cornac data set with the same indices."""
    rows = lists.row_numbers()
    ids = ({u: u for u in range(len(lists))}, {i: i for i in range(n_items)})
    triples = (rows, lists.items.astype(np.int64), np.ones(len(rows), np.float32))
    return cornac.data.Dataset(len(lists), n_items, *ids, triples)


def contenders(sample: Sample, threads: int) -> dict[str, tuple[int, Callable[[], float]]]:
    """By name: the number of metrics, and a run that returns its ndcg@10."""
    cases = sample.cases
    model, seen, truth = factors_in_implicit(sample), *(matrix(x, cases.n_items) for x in (cases.seen, cases.truth))
    ready, train, test = Factors(sample), *(in_cornac(x, cases.n_items) for x in (cases.seen, cases.truth))
    ready.fit(train)
    measures = [kind(k=k) for k in (10, 20) for kind in (cornac.metrics.NDCG, cornac.metrics.Recall)]
    measures += [cornac.metrics.Precision(k=10), cornac.metrics.HitRatio(k=10), cornac.metrics.FMeasure(k=10)]

    def ours() -> float:
        return evaluate(rank(sample.score, cases, deepest(STANDARD)), cases, STANDARD).values["ndcg@10"]

    def with_implicit() -> float:
        with threadpool_limits(1, "blas"):  # as it advises: it has threads of its own
            found = implicit.evaluation.ranking_metrics_at_k(
                model, seen, truth, K=10, show_progress=False, num_threads=threads
            )
        return float(found["ndcg"])

    def with_cornac() -> float:
        return float(ranking_eval(ready, measures, train, test)[0][0])

    return {
        "taildistill": (len(STANDARD), ours),
        f"implicit {implicit.__version__}": (4, with_implicit),
        f"cornac {cornac.__version__}": (len(measures), with_cornac),
    }


def main() -> None:
    """Prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    sample = draw(chosen.users, chosen.items)
    runs = contenders(sample, os.cpu_count() or 1)
    best = dict.fromkeys(runs, float("inf"))
    values = {}
    for number in range(chosen.rounds):
        for name, (_, run) in runs.items():
            if "cornac" in name and number >= 2:  # it takes seconds; two rounds are enough
                continue
            start = time.perf_counter()
            values[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    ours = best["taildistill"]
    print(f"{chosen.users:,} users x {chosen.items:,} items, 64 dimensions, {os.cpu_count()} cores")
    print("| library | metrics | users/s | time of ours | ndcg@10 |\n|---|---|---|---|---|")
    for name, seconds in best.items():
        metrics, rate = runs[name][0], chosen.users / seconds
        print(f"| {name} | {metrics} | {rate:,.0f} | {seconds / ours:.1f} x | {values[name]:.6f} |")
    rates = {name: chosen.users / seconds for name, seconds in best.items()}
    print(json.dumps({"users": chosen.users, "items": chosen.items, "users_per_second": rates}))


if __name__ == "__main__":
    main()
