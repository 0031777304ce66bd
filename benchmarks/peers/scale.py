"""Evaluation of a large catalogue: time and memory as the number of users grows; and the time of intervals.

Run in the project's own environment, from its folder: `python -m benchmarks.peers.scale --users 25000 50000 100000`, or
`python -m benchmarks.peers.scale --intervals`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from benchmarks.peers.sample import Sample
from distill.data.dataset import Lists
from distill.ranking.cases import Cases
from distill.ranking.evaluator import evaluate, rank
from distill.ranking.metrics import STANDARD, deepest
from distill.ranking.significance import sign_flip

SEEN, TRUTH = 50, 10


def large(users: int, n_items: int, dimensions: int = 64, seed: int = 0) -> Sample:
    """Random vectors, and 60 distinct items a user without the cost of a weighted draw."""
    rng = np.random.default_rng(seed)
    step = rng.integers(1, n_items // (SEEN + TRUTH), users)[:, None]
    items = (rng.integers(0, n_items, users)[:, None] + step * np.arange(SEEN + TRUTH)) % n_items
    seen, truth = (np.ascontiguousarray(x).reshape(-1).astype(np.int32) for x in (items[:, :SEEN], items[:, SEEN:]))
    cases = Cases(
        users=np.arange(users),
        seen=Lists(np.arange(users + 1) * SEEN, seen),
        truth=Lists(np.arange(users + 1) * TRUTH, truth),
        n_items=n_items,
        popularity=np.bincount(seen, minlength=n_items),
        activity=np.full(users, SEEN),
        n_train_users=users,
    )
    vectors = [rng.normal(size=(rows, dimensions)).astype(np.float32) for rows in (users, n_items)]
    return Sample(vectors[0], vectors[1], cases)


def time_intervals() -> None:
    """Times 1,000 resamples of all standard metrics and 10,000 sign flips of one, on two sizes."""
    print("| users | items | intervals of 20 metrics, seconds | sign-flip test, seconds |\n|---|---|---|---|")
    for users, n_items in ((1000, 1682), (6000, 9000)):
        sample = large(users, n_items)
        result = evaluate(rank(sample.score, sample.cases, deepest(STANDARD)), sample.cases, STANDARD)
        start = time.perf_counter()
        result.intervals()
        middle = time.perf_counter()
        sign_flip(result.per_user["ndcg@10"])
        end = time.perf_counter()
        print(f"| {users:,} | {n_items:,} | {middle - start:.2f} | {end - middle:.2f} |")


def main() -> None:
    """Prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[5000, 10_000, 20_000])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--intervals", action="store_true", help="time bootstrap and tests instead")
    chosen = parser.parse_args()
    if chosen.intervals:
        time_intervals()
        return
    print("| users | items | seconds | users/s | peak memory, GB |\n|---|---|---|---|---|")
    rows = []
    for users in sorted(chosen.users):
        sample = large(users, chosen.items)
        start = time.perf_counter()
        evaluate(rank(sample.score, sample.cases, deepest(STANDARD)), sample.cases, STANDARD)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {users:,} | {chosen.items:,} | {seconds:.1f} | {users / seconds:,.0f} | {peak:.2f} |", flush=True)
        rows.append({"users": users, "seconds": seconds, "peak_gb": peak})
    print(json.dumps({"items": chosen.items, "runs": rows}))


if __name__ == "__main__":
    main()
