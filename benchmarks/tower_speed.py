"""How much of the machine's matrix-multiply rate fine-tuning a text tower and encoding a catalogue reach.

    python -m benchmarks.tower_speed
    python -m benchmarks.tower_speed --config configs/amazon_office_minilm.yaml data.path=../shared/data/amazon-office
    python -m benchmarks.tower_speed --config configs/amazon_office_smollm2.yaml --steps 5

Counts the floating-point operations of matrix products in the layers, of real tokens alone: padding, norms, the loss
and the optimiser are time that counts for nothing. The rates to compare with are plain matrix products in the same run,
precision and number of threads: a large square one, and one as large as the tower's own. On a GPU the share of the
large product is the model-FLOP utilisation. The text tower is the first one in the configuration that trains.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.latency.machine import describe_machine
from distill import prepare
from distill.config import load
from distill.data.dataset import Dataset
from distill.job import Batch
from distill.memory import keep_freed_memory
from teachers.backbone import layers_of
from teachers.protocol import Inputs
from teachers.text_encoder import encode
from teachers.text_tower import TextTower

INPUTS = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "c_attn")  # linear layers that read a layer's input


def operations(tower: TextTower, lengths: np.ndarray, first: int, training: bool) -> float:
    """Floating-point operations of the matrix products in the layers from `first` on.

    Args:
        tower: Prepared.
        lengths: Tokens of each text, (M,).
        first: The lowest layer that runs.
        training: Counts the backward pass too: a product for the input of each linear layer (but the first trained
            layer's own input needs none), one for each weight that trains, and four for attention.
    """
    layers = layers_of(tower.body)
    assert layers is not None
    config, tokens = tower.body.config, float(lengths.sum())
    wide = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    looked_at = float((lengths * (lengths + 1) / 2 if config.is_decoder or _causal(tower) else lengths**2).sum())
    total = 0.0
    for number, layer in enumerate(layers[first:], first):
        learns = training and number >= tower.encoder.frozen
        total += 4 * looked_at * wide * config.num_attention_heads * (3 if learns else 1)
        for name, module in layer.named_modules():
            if not isinstance(module, nn.Linear) and type(module).__name__ != "Conv1D":
                continue
            weight = module.weight
            reads_input = number == tower.encoder.frozen and name.rpartition(".")[2] in INPUTS
            products = 1 + (learns and not reads_input) + (learns and weight.requires_grad)
            total += 2 * products * weight.numel() * tokens
    return total


def _causal(tower: TextTower) -> bool:
    return "CausalLM" in str(getattr(tower.body.config, "architectures", "")) or hasattr(tower.body, "rotary_emb")


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Shortest of several runs."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return min(found)


def product_rate(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of one matrix product (rows, inner) by (inner, columns)."""
    left, right = (
        torch.randn(rows, inner, device=device).to(dtype),
        torch.randn(inner, columns, device=device).to(dtype),
    )
    work = lambda: left @ right  # noqa: E731
    seconds(work, device, 3)
    return 2.0 * rows * inner * columns / seconds(work, device, 7)


def train(tower: TextTower, steps: int) -> tuple[float, np.ndarray, int]:
    """Seconds of so many steps like the engine's, after two others; tokens of each text met, and all places."""
    job = tower.job()
    assert job is not None
    model, device, half = job.model.to(tower.device), tower.device, tower.numbers == "bf16"
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    model.train()
    lengths, padded, begin = [], 0, 0.0
    for number, rows in enumerate(job.batches(0)[: steps + 2]):
        if number == 2:
            _wait(device)
            begin = time.perf_counter()
        batch: Batch = {name: value.to(device) for name, value in job.collate(rows).items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = model(batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        optimizer.zero_grad()
        if number >= 2:
            lengths.append(batch["mask"].sum(1).cpu().numpy())
            padded += batch["mask"].numel()
    _wait(device)
    return time.perf_counter() - begin, np.concatenate(lengths), padded


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(tower: TextTower, steps: int, square: int, count: int) -> dict[str, Any]:
    """Rates of both works and of the products they are compared with."""
    dtype, device = torch.bfloat16 if tower.numbers == "bf16" else torch.float32, tower.device
    width = tower.body.config.hidden_size
    large = product_rate(square, square, square, dtype, device)
    spent, lengths, padded = train(tower, steps)
    places = padded // max(1, steps)
    own = product_rate(places, width, 4 * width, dtype, device)
    first = tower.encoder.frozen if tower.texts.hidden is not None else 0
    rows = {"fine-tuning": (spent, lengths, operations(tower, lengths, first, True), padded)}
    texts = replace(tower.texts, hidden=None)
    texts = texts.take(torch.arange(0, len(texts), max(1, len(texts) // count if count else 1)))
    padded = sum(len(batch) * int(texts.lengths[batch].max()) for batch in texts.budgeted(8192))
    spent = seconds(lambda: encode(tower.encoder, texts, device, tower.numbers), device, 2)
    rows["encoding"] = (spent, texts.lengths, operations(tower, texts.lengths, 0, False), padded)
    return {
        "product": {f"{square} x {square} x {square}": large, f"{places} x {width} x {4 * width}": own},
        "work": {
            name: {
                "seconds": spent,
                "texts": len(lengths),
                "tokens_per_second": float(lengths.sum()) / spent,
                "padding": 1 - float(lengths.sum()) / padded,
                "rate": count / spent,
                "share_of_large": count / spent / large,
                "share_of_own": count / spent / own,
            }
            for name, (spent, lengths, count, padded) in rows.items()
        },
    }


def main() -> None:
    """Prints a table, then the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--square", type=int, default=0, help="size of the large product; 0: 2048, on a GPU 8192")
    parser.add_argument("--texts", type=int, default=0, help="about so many texts are encoded; 0: all")
    parser.add_argument("overrides", nargs="*", help="key=value")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        config = load(Path(options.config), [*options.overrides, f"run.folder={folder}"])
        prepare.main(config)
        dataset = Dataset.read(config.folder / "data")
    towers = [s for s in config.teacher.members.values() if s.name == "text_tower" and s.arguments.get("epochs", 1)]
    tower = TextTower(**towers[0].arguments)
    tower.prepare(Inputs(dataset, {}, config.seed, device))
    found = measure(tower, options.steps, options.square or (8192 if device.type == "cuda" else 2048), options.texts)
    found |= {"precision": tower.numbers, "threads": options.threads, "backbone": tower.backbone}
    table = Table(title=f"{tower.backbone}, {tower.numbers}, {options.threads} threads, {device.type}")
    for column in ("work", "s", "tokens/s", "padding", "GFLOP/s", "of the large product", "of one its own size"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, row in found["work"].items():
        cells = [f"{row['seconds']:.2f}", f"{row['tokens_per_second']:,.0f}", f"{row['padding']:.1%}"]
        shares = [f"{row['rate'] / 1e9:,.0f}", f"{row['share_of_large']:.0%}", f"{row['share_of_own']:.0%}"]
        table.add_row(name, *cells, *shares)
    for name, rate in found["product"].items():
        table.add_row(f"product {name}", "", "", "", f"{rate / 1e9:,.0f}", "", "")
    Console().print(table)
    print(json.dumps(found | {"machine": describe_machine()}))


if __name__ == "__main__":
    main()
