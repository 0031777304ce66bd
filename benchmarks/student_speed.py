"""How fast students train, beside BPR of other libraries in the same run, and what a large catalogue takes in memory.

    python -m benchmarks.student_speed --interactions ../shared/data/ml-1m/interactions.csv
    python -m benchmarks.student_speed --recbole ~/.cache/taildistill-peers/recbole/bin/python
    python -m benchmarks.student_speed --memory
    python -m benchmarks.student_speed --cases hybrid_cf,mf --compile
    python -m benchmarks.student_speed --profile

Whole training through the engine: batches from the flat array of events, forward, backward, clipping, optimiser.
implicit is taken from this environment, or from `--implicit PYTHON`. Samples of `mf` are counted twice: contexts, each
with one positive item, and pairs of a positive and a negative item. Seconds of processor time stand beside seconds of
time: the first are comparable on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from distill.config import Loss
from distill.data.ragged import Lists
from distill.engine.local import Local
from distill.engine.loop import fit
from distill.job import Job
from distill.memory import keep_freed_memory
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.windows.cut import Windows
from distill.windows.halves import Halves
from students.checkpoint import build_student

PEER = Path(__file__).parent / "peers" / "bpr_speed.py"
KEYS = ("per_second", "per_cpu_second")
LARGE = 65_536
SHARED = 64  # negatives that the contexts of a batch share in BPR
SETS: dict[str, Any] = {"order": "halves", "settings": {"decays": [10_000.0]}}
CLASSIC: dict[str, Any] = {
    "order": "halves",
    "settings": {"decays": [10_000.0], "cosine": False, "scale": 1.0, "dropout": 0.0, "item_dropout": 0.0},
}
SHARED_BPR = {"loss": Loss("bpr", arguments={"negatives": SHARED, "shared": True}), "negatives": SHARED}
SAMPLED = {"loss": Loss("sampled_softmax", arguments={"negatives": 256}), "negatives": 0}
WHOLE = {"loss": Loss("cross_entropy"), "negatives": 0}
CASES: dict[str, dict[str, Any]] = {
    "mf on halves, plain products, bpr, 1 negative": {
        "student": "mf",
        "loss": Loss("bpr"),
        "negatives": 1,
        **CLASSIC,
    },
    f"mf on halves, plain products, bpr, 1 negative, batches of {LARGE:,}": {
        "student": "mf",
        "loss": Loss("bpr"),
        "negatives": 1,
        "batch": LARGE,
        **CLASSIC,
    },
    f"mf on halves, bpr, {SHARED} shared negatives": {"student": "mf", **SHARED_BPR, **SETS},
    "mf on halves, cross_entropy": {"student": "mf", **WHOLE, **SETS},
    "hybrid_cf on halves, cross_entropy": {"student": "hybrid_cf", **WHOLE, **SETS},
    "hybrid_cf on halves, sampled_softmax, 256": {"student": "hybrid_cf", **SAMPLED, **SETS},
    "mf, bpr, 1 negative": {"student": "mf", "loss": Loss("bpr"), "negatives": 1},
    f"mf, bpr, {SHARED} shared negatives": {"student": "mf", **SHARED_BPR},
    "hybrid_cf, sampled_softmax, 256": {"student": "hybrid_cf", **SAMPLED},
}


def read_pairs(path: Path) -> np.ndarray:
    """Users and items of a CSV with a header as numbers from 0, (E, 2)."""
    table = pl.read_csv(path, columns=[0, 1])
    return np.stack([table[name].cast(pl.String).rank("dense").to_numpy() - 1 for name in table.columns], 1)


def lists_of(pairs: np.ndarray) -> tuple[Lists, int]:
    """A row a user, and the number of items."""
    order = np.argsort(pairs[:, 0], kind="stable")
    counts = np.bincount(pairs[:, 0])
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Lists(indptr, pairs[order, 1].astype(np.int32)), int(pairs[:, 1].max()) + 1


def make_job(lists: Lists, n_items: int, case: dict[str, Any], options: argparse.Namespace, epochs: int) -> Job:
    """Training of one case."""
    torch.manual_seed(0)
    student: Any = build_student(case["student"], {"dim": options.dim, **case.get("settings", {})}, n_items, None, 0)
    popularity = torch.from_numpy(np.bincount(lists.items, minlength=n_items) / len(lists.items)).float()
    knowledge = Knowledge(options.dim, n_items, len(lists), torch.zeros(n_items, dtype=torch.int64), popularity)
    windows = reader(lists, n_items, case, options)
    objective = Objective(student, [case["loss"]], knowledge)
    if case.get("optimiser", "adamw") != "adamw" and not student.train_by_rows():
        raise SystemExit(f"{case['student']} has no rows to read one by one")
    return Job(
        model=objective,
        batches=lambda epoch: windows.batches(case.get("batch", options.batch), 0, epoch),
        collate=windows.batch,
        epochs=epochs,
        learning_rate=5e-3,
        optimiser=case.get("optimiser", "adamw"),
        tables=("identity",),
        compile=options.compile,
    )


def reader(lists: Lists, n_items: int, case: dict[str, Any], options: argparse.Namespace) -> Windows | Halves:
    """What cuts the sequences into batches."""
    if case.get("order") == "halves":
        return Halves(lists, n_items, 10_000)
    return Windows.of(lists, n_items, options.windows, options.length, shuffle=0)


def train(lists: Lists, n_items: int, case: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Contexts a second: the difference of a training of 1 epoch and one of more."""
    contexts = reader(lists, n_items, case, options).contexts
    further = options.epochs * (10 if case.get("order") == "halves" else 1)  # they are short
    wall, cpu = [], []
    for epochs in (1, 1 + further):
        job = make_job(lists, n_items, case, options, epochs)
        begin, used = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            fit(job, Local(), Path(folder), None, case["student"])
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    done = further * contexts
    return {"per_second": done / (wall[1] - wall[0]), "per_cpu_second": done / (cpu[1] - cpu[0])}


def peer(python: str, library: str, pairs: np.ndarray, options: argparse.Namespace) -> dict[str, float] | None:
    """The figures of another library, None where its environment hasn't got it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.csv"
        np.savetxt(path, pairs, delimiter=",", fmt="%d")
        command = [python, str(PEER), library, str(path), "--dim", str(options.dim)]
        command += ["--threads", str(options.threads), "--epochs", str(options.epochs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{library}: not measured: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def profile_training(job: Job, contexts: int, title: str) -> None:
    """Prints the operations of an epoch of training, and how much of the machine's rate its products are.

    Args:
        job: One epoch of it is trained.
        contexts: Contexts of the epoch.
        title: The training's name.
    """
    with tempfile.TemporaryDirectory() as folder:
        counter = FlopCounterMode(display=False)
        with counter:
            fit(job, Local(), Path(folder) / "counted", None, title)
        begin = time.process_time()
        fit(job, Local(), Path(folder) / "timed", None, title)
        seconds = time.process_time() - begin
        with profile(activities=[ProfilerActivity.CPU]) as found:
            fit(job, Local(), Path(folder) / "profiled", None, title)
    each, rate, most = counter.get_total_flops() / contexts, counter.get_total_flops() / seconds, product_rate()
    print(
        f"\n{title}: {contexts / seconds:,.0f} contexts / CPU s, {each / 1e3:,.0f} thousand operations of products each"
    )
    print(f"{rate / 1e9:.1f} of {most / 1e9:.1f} GFLOP / CPU s of a large product: {100 * rate / most:.0f} %")
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def product_rate(size: int = 2048, times: int = 4) -> float:
    """Operations a second of processor time in a product of two square float32 matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    out = left @ right
    begin = time.process_time()
    for _ in range(times):
        torch.mm(left, right, out=out)
    return 2 * size**3 * times / (time.process_time() - begin)


def memory(options: argparse.Namespace) -> None:
    """Trains a student over a million items and prints the most memory that this process held."""
    rng = np.random.default_rng(0)
    n_items, users, each = 1_000_000, 100_000, 20
    # Zipf-like popularity: a uniform number to the third power.
    items = (n_items * rng.random(users * each) ** 3).astype(np.int32)
    lists = Lists(np.arange(users + 1, dtype=np.int64) * each, items)
    case = {**CASES["hybrid_cf, sampled_softmax, 256"], "optimiser": options.optimiser}
    before = peak_gigabytes()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fit(make_job(lists, n_items, case, options, 1), Local(), Path(folder), None, "hybrid_cf")
    contexts = users * (each - 1)
    speed = contexts / (time.perf_counter() - begin)
    print(f"{n_items:,} items x {options.dim}, {options.optimiser}: {speed:,.0f} contexts/s")
    print(f"peak memory {peak_gigabytes():.2f} GB (before training {before:.2f} GB), best weights written included")


def peak_gigabytes() -> float:
    """The most memory that this process has held, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, default=Path("../shared/data/ml-1m/interactions.csv"))
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16_384, help="contexts in a batch")
    parser.add_argument("--windows", type=int, default=32, help="contexts in a window")
    parser.add_argument("--length", type=int, default=50, help="longest history")
    parser.add_argument("--compile", action="store_true", help="fit.compile: steps as programs of torch.compile")
    parser.add_argument("--cases", default="", help="parts of names of the trainings to measure, by commas")
    parser.add_argument("--profile", action="store_true", help="operations of a step by processor time, and no peers")
    parser.add_argument("--implicit", default=sys.executable, help="Python that has implicit")
    parser.add_argument("--recbole", default="", help="Python that has RecBole; left out by default")
    parser.add_argument("--memory", action="store_true", help="the million-item case alone")
    parser.add_argument("--optimiser", default="rowwise_adagrad", help="of the million-item case")
    return parser


def main() -> None:
    """Prints the table in Markdown."""
    options = make_parser().parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.memory:
        memory(options)
        return
    pairs = read_pairs(options.interactions)
    lists, n_items = lists_of(pairs)
    wanted = [word.strip() for word in options.cases.split(",")]
    cases = {name: case for name, case in CASES.items() if any(word in name for word in wanted)}
    if options.compile:  # sets aren't compiled, fit.compile refuses them
        cases = {name: case for name, case in cases.items() if case.get("order") != "halves"}
    if options.profile:
        for name, case in cases.items():
            contexts = reader(lists, n_items, case, options).contexts
            profile_training(make_job(lists, n_items, case, options, 1), contexts, name)
        return
    base = peer(options.implicit, "implicit", pairs, options)
    print(f"{len(lists):,} users, {n_items:,} items, {len(pairs):,} events; dim {options.dim}")
    print(f"{options.threads} threads, batches of {options.batch:,} contexts, windows of {options.windows}")
    columns = (
        "training",
        "contexts/s",
        "contexts / CPU s",
        "pairs/s",
        "pairs / CPU s",
        "times implicit",
        "by CPU time",
    )
    print("\n| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))
    rows: dict[str, tuple[dict[str, float], int]] = {}
    if base:
        rows["implicit BPR"] = (base, 1)
    for name, case in cases.items():
        rows[name] = (train(lists, n_items, case, options), case["negatives"])
    if options.recbole and (found := peer(options.recbole, "recbole", pairs, options)):
        rows["RecBole BPR"] = (found, 1)
    for name, (found, negatives) in rows.items():
        cells = [f"{found[key]:,.0f}" for key in KEYS]
        cells += [f"{found[key] * negatives:,.0f}" if negatives else "–" for key in KEYS]
        cells += [f"{found[key] * negatives / base[key]:.2f}" if base and negatives else "–" for key in KEYS]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
