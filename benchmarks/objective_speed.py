"""What every loss costs, forward and backward, against cross-entropy on the same scores.

    python -m benchmarks.objective_speed --rows 512 --items 3500 --k 100

Prints milliseconds, the least of several repeats, and the ratio to `cross_entropy`. Losses on representations are timed
with the scores' own cost (query times item table) left out.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill.contracts.representation import make_knowledge, make_representation
from distill.objectives.strata import within_strata
from distill.plugins import TABLES, resolve
from distill.soft.target import SoftTarget

SLOWER = 3.0  # times cross-entropy, a loss counts as dear


def make_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objective_speed", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=512, help="contexts in a batch, B")
    parser.add_argument("--items", type=int, default=3500, help="items in the catalogue, N")
    parser.add_argument("--k", type=int, default=100, help="items in the teacher's lists, K")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def problem(rows: int, n_items: int, k: int) -> tuple[Tensor, SoftTarget]:
    """Random scores (B, N) with a twentieth masked, and a teacher's answer to them."""
    torch.manual_seed(0)
    seen = torch.rand(rows, n_items) < 0.05
    scores = torch.randn(rows, n_items).masked_fill(seen, -torch.inf)
    teacher = (2 * torch.randn(rows, n_items)).masked_fill(seen, -torch.inf)
    best = teacher.topk(k, dim=1)
    popularity = torch.rand(n_items).square()
    return scores, SoftTarget(
        label=best.indices[:, 0],
        items=best.indices,
        scores=best.values,
        logz=teacher.logsumexp(1, keepdim=True),
        user=torch.arange(rows),
        strata=(torch.rand(n_items) * 4).long(),
        popularity=popularity / popularity.sum(),
        progress=0.5,
    )


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """The least time of a step, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def step_of(name: str, scores: Tensor, target: SoftTarget) -> Callable[[], None]:
    """One forward and backward pass of a loss by name; "NAME in strata" runs it inside each stratum."""
    loss: Any = resolve("loss", name.removesuffix(" in strata"))
    on_vectors = inspect.isclass(loss)
    if on_vectors:
        knowledge = make_knowledge(scores.shape[1], users=len(scores), dim=64, hidden=384)
        module = loss(knowledge)
        given = make_representation(knowledge, rows=len(scores))
        given = replace(given, scores=given.scores.detach().requires_grad_())
        hidden = replace(target, hidden=torch.randn(len(scores), 384))

        def compare_vectors() -> None:
            given.query.grad = given.table.grad = None
            module(given, hidden).backward()

        return compare_vectors

    def compare_scores() -> None:
        leaf = scores.clone().requires_grad_()
        (within_strata(loss, leaf, target) if name.endswith(" in strata") else loss(leaf, target)).backward()

    return compare_scores


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints the table; returns milliseconds by name."""
    options = make_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    scores, target = problem(options.rows, options.items, options.k)
    names = [*TABLES["loss"], "listwise_kl in strata"]
    found = {name: milliseconds(step_of(name, scores, target), options.repeats) for name in names}
    base = found["cross_entropy"]
    print(f"B = {options.rows}, N = {options.items}, K = {options.k}, {options.threads} thread(s)")
    for name, ms in sorted(found.items(), key=lambda pair: pair[1]):
        print(f"{name:30} {ms:8.2f} ms  {ms / base:5.2f} x{'  dear' if ms > SLOWER * base else ''}")
    return found


if __name__ == "__main__":
    main()
