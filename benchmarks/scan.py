"""The certified scan against the fp32 graph, the memory's own speed and faiss: `python -m benchmarks.scan`.

One thread; the engines take turns, so that their ratios hold on a busy machine too. Items and queries are normal random
vectors, which leaves no shortcut; the students of the first table are HybridCFs with random weights. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy is imported
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from benchmarks.export_cost import random_student  # noqa: E402
from distill.export.encoder import folded_items, trace_encoder  # noqa: E402
from distill.export.graph import build_graphs  # noqa: E402
from distill.export.scan_graph import plain_model, write_exact  # noqa: E402
from distill.serving.approximate import Approximate, build  # noqa: E402
from distill.serving.exact import ExactGraph  # noqa: E402
from distill.serving.scan import CertifiedIndex  # noqa: E402
from distill.serving.session import Graph, open_session  # noqa: E402

K, LENGTH, DIM = 100, 30, 64
CHECKED = 128  # queries of one step of the check
IN_A_ROW = 5  # calls of an engine before the next one's turn


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", type=int, default=27_000, help="items of the catalogue with a user side")
    parser.add_argument("--large", type=int, default=1_000_000, help="items of the bare scan")
    parser.add_argument("--calls", type=int, default=2000, help="calls of each engine at the small size, batch 1")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each engine at the large size")
    # Above 65,536 items not all groups are opened, so the certificate has something to say.
    parser.add_argument("--checked", type=int, default=100_000, help="items of the check against brute force")
    parser.add_argument("--queries", type=int, default=10_000, help="queries of the check against brute force")
    parser.add_argument(
        "--all-peers", action="store_true", help="faiss IVF and usearch too, which take minutes to build"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small_catalogue(chosen.small, chosen.calls, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        large_catalogue(chosen.large, chosen.rounds, chosen.all_peers, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check(chosen.checked, chosen.queries, Path(folder))


def small_catalogue(n_items: int, calls: int, folder: Path) -> None:
    """Whole calls of a student, user side and seen mask included."""
    student = random_student(n_items, DIM)
    write_exact(folder, *folded_items(student), trace_encoder(student, 50))
    engines: dict[str, Graph | ExactGraph] = {
        name: Graph(model.SerializeToString(), n_items)
        for name, model in build_graphs(student, ["fp32", "int8"], 50).items()
    }
    engines["exact (certified)"] = ExactGraph.open(folder)
    random = np.random.default_rng(0)
    histories = np.stack([random.choice(n_items, LENGTH, replace=False) for _ in range(1000)])

    def caller(engine: Graph | ExactGraph, batch: int) -> Callable[[int], object]:
        def call(number: int) -> object:
            start = number * batch % (len(histories) - batch + 1)
            return engine.top(histories[start : start + batch], histories[start : start + batch], K)

        return call

    print(f"\n{n_items:,} x {DIM}, user side included, top {K}, ms a call\n")
    print("| engine | batch | min | p50 | p99 | p50 a list |\n|---|---|---|---|---|---|")
    for batch in (1, 8, 64):
        rounds = max(3, calls // (50 * batch))
        times = take_turns({name: caller(engine, batch) for name, engine in engines.items()}, rounds, 50)
        for name, seconds in times.items():
            least, half, most = 1e3 * np.percentile(seconds, [0, 50, 99])
            print(f"| {name} | {batch} | {least:.3f} | {half:.3f} | {most:.3f} | {half / batch:.4f} |")


def large_catalogue(n_items: int, rounds: int, all_peers: bool, folder: Path) -> None:
    """Bare scans: queries in, lists out."""
    random = np.random.default_rng(1)
    table, bias = random.normal(size=(n_items, DIM)).astype(np.float32), np.zeros(n_items, np.float32)
    queries = random.normal(size=(256, DIM)).astype(np.float32)
    write_exact(folder, table, bias)
    index = CertifiedIndex.open(folder)
    plain = open_session(plain_model(table, bias).SerializeToString())
    # As many bytes as the int8 codes, read once by the fastest reduction that numpy has.
    same_bytes = np.ones(n_items * DIM // 4, np.float32)
    wanted = ["faiss_flat", "faiss_sq8", "faiss_ivf", "usearch"] if all_peers else ["faiss_flat", "faiss_sq8"]
    peers = [build(kind, index, queries[:50], K) for kind in wanted if installed(kind)]
    print(f"\n{n_items:,} x {DIM}, bare scan, top {K}, one thread, ms a call\n")
    print("| engine | batch | min | p50 | p99 | of fp32 (p50) | of the floor (p50) | recall |")
    print("|---|---|---|---|---|---|---|---|")
    for batch in (1, 8, 64):
        calls = bare_calls(index, plain, peers, queries, batch)
        calls["reading as many bytes (floor)"] = lambda _: same_bytes.max()
        turns = rounds if batch == 1 else max(2, rounds // (3 * batch))
        times = take_turns(calls, turns, IN_A_ROW if batch == 1 else 1)
        halves = {name: float(np.median(seconds)) for name, seconds in times.items()}
        floor = halves["reading as many bytes (floor)"]
        for name, seconds in times.items():
            least, half, most = 1e3 * np.percentile(seconds, [0, 50, 99])
            shares = f"{halves[name] / halves['fp32 graph']:.2f} | {halves[name] / floor:.2f}"
            recall = next((f"{peer.recall:.4f}" for peer in peers if peer.kind == name), "")
            recall = "1, certified" if name.startswith("certified") else recall
            print(f"| {name} | {batch} | {least:.2f} | {half:.2f} | {most:.2f} | {shares} | {recall} |")
    found = index.search(queries, K)
    spread = np.percentile(found.candidates, [50, 100])
    print(
        f"\n{found.certified.mean():.2%} of {len(queries)} lists certified by the bounds; rows scored in float32: "
        f"{spread[0]:.0f} (median), {spread[1]:.0f} (most)."
    )


def bare_calls(
    index: CertifiedIndex, plain: Any, peers: list[Approximate], queries: np.ndarray, batch: int
) -> dict[str, Callable[[int], object]]:
    """The engines as functions of a running number."""
    k = np.array([K], np.int64)

    def some(number: int) -> np.ndarray:
        start = number * batch % (len(queries) - batch + 1)
        return queries[start : start + batch]

    calls: dict[str, Callable[[int], object]] = {
        "certified scan": lambda number: index.search(some(number), K),
        "fp32 graph": lambda number: plain.run(None, {"query": some(number), "k": k}),
    }
    for peer in peers:
        calls[peer.kind] = lambda number, peer=peer: peer.search(some(number), K)  # type: ignore[misc]
    return calls


def take_turns(calls: Mapping[str, Callable[[int], object]], rounds: int, in_a_row: int) -> dict[str, list[float]]:
    """Seconds of each call. The first call of each turn, on caches that the others have filled, isn't counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    number = 0
    for _ in range(rounds):
        for name, call in calls.items():
            call(number)
            for _ in range(in_a_row):
                number += 1
                begin = time.perf_counter()
                call(number)
                times[name].append(time.perf_counter() - begin)
    return times


def check(n_items: int, n_queries: int, folder: Path) -> None:
    """Compares certified lists with sorted float64 scores: normal rows, rows of very different length, and ties."""
    random = np.random.default_rng(2)
    rows = random.normal(size=(n_items, DIM))
    tables = {
        "normal": rows,
        "lognormal lengths": rows * random.lognormal(0, 1, (n_items, 1)),
        "ties (each row ten times)": np.repeat(np.rint(rows[: -(-n_items // 10)]), 10, axis=0)[:n_items],
    }
    print(f"\n{n_queries:,} random queries against brute force, {n_items:,} x {DIM}, top {K}\n")
    print("| table | wrong lists | wrong though certified | certified |\n|---|---|---|---|")
    for name, values in tables.items():
        table, bias = values.astype(np.float32), random.normal(size=n_items).astype(np.float32) * (name == "normal")
        bias = bias.astype(np.float32)
        write_exact(folder, table, bias)
        index = CertifiedIndex.open(folder)
        wrong = certified = both = 0
        for start in range(0, n_queries, CHECKED):
            queries = random.normal(size=(min(CHECKED, n_queries - start), DIM)).astype(np.float32)
            found = index.search(queries, K)
            false = (found.ids != brute_force(table, bias, queries)).any(axis=1)
            wrong, both = wrong + int(false.sum()), both + int((false & found.certified).sum())
            certified += int(found.certified.sum())
        print(f"| {name} | {wrong} | {both} | {certified / n_queries:.2%} |")


def brute_force(table: np.ndarray, bias: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Items int64 (B, K): float64 sums rounded to float32, equal scores in the order of the items."""
    scores = (queries.astype(np.float64) @ table.astype(np.float64).T + bias).astype(np.float32)
    least = np.partition(scores, -K, axis=1)[:, -K]
    lists = []
    for row, limit in zip(scores, least, strict=True):
        items = np.flatnonzero(row >= limit)
        lists.append(items[np.argsort(-row[items], kind="stable")][:K])
    return np.stack(lists)


def installed(kind: str) -> bool:
    """Whether the package behind an approximate search is there."""
    return importlib.util.find_spec(kind.partition("_")[0]) is not None


if __name__ == "__main__":
    main()
