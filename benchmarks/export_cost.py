"""Bytes and latency of exported students by catalogue size: `python -m benchmarks.export_cost 3700 27000 100000`.

The students are HybridCFs with random weights, which cost what trained ones do. Calls are single histories of 30 random
items, top 100, on one thread, user side and Python included; the variants take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.latency import measure_interleaved
from distill.data.dataset import Dataset
from distill.export.bundle import write_bundle, write_model
from distill.export.graph import build_graphs
from distill.progress import console
from distill.serving.runtime import Bundle
from students.hybrid_cf import HybridCF

VARIANTS = ["fp32", "int8"]
K, LENGTH, HISTORIES = 100, 30, 1000


def main() -> None:
    """Prints a row a catalogue size and model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("items", type=int, nargs="+", help="catalogue sizes")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--calls", type=int, default=3000)
    chosen = parser.parse_args()
    table = Table(title=f"{chosen.dim} dims, top {K}, batch 1, one thread, milliseconds")
    for name in ("items", "model", "bytes", "share", "min", "p50", "p90", "p99"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for n_items in chosen.items:
        for row in cost(n_items, chosen.dim, chosen.calls):
            table.add_row(*row)
    console.print(table)


def cost(n_items: int, dim: int, calls: int) -> list[list[str]]:
    """Rows of the table for one catalogue size."""
    student = random_student(n_items, dim)
    random = np.random.default_rng(0)
    histories = [random.choice(n_items, LENGTH, replace=False).tolist() for _ in range(HISTORIES)]
    with tempfile.TemporaryDirectory() as folder:
        bundles = {variant: Bundle.open(folder, variant) for variant in bundle(student, Path(folder))}
    models: dict[str, Callable[[int], Any]] = {
        name: lambda i, opened=opened: opened.recommend_one(histories[i % HISTORIES], K)  # type: ignore[misc]
        for name, opened in bundles.items()
    }
    models["torch"] = torch_call(student, histories)
    times = measure_interleaved(models, {name: calls if name in bundles else calls // 10 for name in models})
    sizes = {name: opened.about["variants"][name]["bytes"] for name, opened in bundles.items()}
    return [
        [
            f"{n_items:,}",
            name,
            f"{sizes[name]:,}" if name in sizes else "",
            f"{sizes[name] / sizes['fp32']:.1%}" if name in sizes else "",
            *(f"{times[name][figure]:.3f}" for figure in ("min", "p50", "p90", "p99")),
        ]
        for name in models
    ]


def random_student(n_items: int, dim: int) -> HybridCF:
    """A HybridCF in which no weight is zero."""
    torch.manual_seed(0)
    student = HybridCF(n_items, dim=dim)
    for weight in student.parameters():
        if not weight.detach().any():
            torch.nn.init.normal_(weight, std=0.05)
    return student.eval()


def bundle(student: HybridCF, folder: Path) -> list[str]:
    """Writes a bundle of a student without a data set; returns the variants."""
    models = {name: folder / f"model.{name}.onnx" for name in VARIANTS}
    for name, model in build_graphs(student, VARIANTS, max_length=50).items():
        write_model(model, models[name])
    n_items = student.n_items
    names = [str(item) for item in range(n_items)]
    dataset = Dataset(
        user_ids=np.array(["0"]),
        item_ids=np.array(names),
        titles=names,
        texts=[""] * n_items,
        indptr=np.array([0, 1]),
        items=np.zeros(1, np.int32),
        parts=np.zeros(1, np.uint8),
    )
    write_bundle(folder, dataset, models, "HybridCF", student.item_table().shape[1], max_length=50, k=K)
    return VARIANTS


def torch_call(student: HybridCF, histories: list[list[int]]) -> Callable[[int], Tensor]:
    """The torch student as it would be served: the output table made once, the rest for each call."""
    table, bias = student.item_table().detach(), student.item_bias().detach()

    @torch.inference_mode()
    def call(number: int) -> Tensor:
        history = torch.tensor([histories[number % HISTORIES]])
        scores = functional.linear(student.encode(history), table, bias)
        return cast(Tensor, scores.scatter(1, history, -torch.inf).topk(K).indices)

    return call


if __name__ == "__main__":
    main()
