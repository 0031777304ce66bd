"""What distillation adds to a training step of the student: reading the store, and the losses.

    python -m benchmarks.step_overhead

A whole step — batch, forward, losses, backward, AdamW — of `hybrid_cf` over a full softmax, on labels alone and with
the bundled configs' losses on a store on disk, in turns; the median of each and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from distill.config import Loss
from distill.memory import keep_freed_memory
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.soft.store import Store, StoreHeader, StoreWriter
from distill.soft.targets import StoreTargets
from students.hybrid_cf import HybridCF

PLAIN = [Loss("cross_entropy")]
DISTILLED = [
    Loss("cross_entropy", 0.1),
    Loss("listwise_kl", 0.63, {"sharpening": 2.0, "rest": 0.2}),
    Loss("stratified_kl", 0.54),
]
K, LENGTH = 100, 50


def make_store(folder: Path, rows: int, n_items: int, rng: np.random.Generator) -> StoreTargets:
    """A store of random answers."""
    header = StoreHeader(K, [1.0], 0, n_items, "vocabulary", "data", "teacher")
    writer = StoreWriter(folder, header)
    starts = list(range(0, rows, 16_384))
    for number, first in enumerate(starts):
        count = min(16_384, rows - first)
        scores = -np.sort(rng.exponential(2.0, (count, K)), axis=1).astype(np.float32)
        start = rng.integers(0, n_items - K, count)
        arrays = {
            "items": start[:, None] + np.arange(K),
            "scores": scores,
            "logz": np.full((count, 1), 4.0, np.float32),
        }
        writer.write(number, first + np.arange(count), arrays)
    writer.close(starts, rows)
    return StoreTargets(Store.open(folder))


def stepper(losses: Sequence[Loss], targets: StoreTargets | None, n_items: int, batch: int) -> Callable[[], None]:
    """One training step on fresh random contexts."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    student = HybridCF(n_items, dim=64)
    share = torch.full((n_items,), 1 / n_items)
    knowledge = Knowledge(64, n_items, 1, torch.arange(n_items) * 4 // n_items, share)
    objective = Objective(student, losses, knowledge)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        history = torch.from_numpy(rng.integers(0, n_items, (batch, LENGTH)))
        given = {"history": history, "seen": history, "label": torch.from_numpy(rng.integers(0, n_items, batch))}
        given["label"] = torch.where((history == given["label"][:, None]).any(1), -1, given["label"])
        if targets is not None:
            given |= targets.lookup(rng.integers(0, targets.rows, batch))
            hit = (given["items"][:, :, None] == history[:, None, :]).any(2)
            given["items"] = given["items"].masked_fill(hit, -1)
        optimizer.zero_grad()
        objective(given)["loss"].backward()
        optimizer.step()

    return step


def main() -> None:
    """Prints both steps and the overhead in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=30)
    chosen = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        targets = make_store(Path(folder), chosen.rows, chosen.items, np.random.default_rng(0))
        steps = {
            "labels alone": stepper(PLAIN, None, chosen.items, chosen.batch),
            "distilled": stepper(DISTILLED, targets, chosen.items, chosen.batch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(chosen.steps + 3):
            for name, step in steps.items():
                begin = time.perf_counter()
                step()
                if number >= 3:
                    seconds[name].append(time.perf_counter() - begin)
    plain, distilled = (float(np.median(seconds[name])) for name in steps)
    print("| step | median ms | contexts/s |")
    print("|---|---|---|")
    for name, value in (("labels alone", plain), ("distilled", distilled)):
        print(f"| {name} | {1e3 * value:.1f} | {chosen.batch / value:,.0f} |")
    print(f"\noverhead {100 * (distilled / plain - 1):.0f} % ({chosen.items:,} items, batch {chosen.batch}, K {K})")


if __name__ == "__main__":
    main()
