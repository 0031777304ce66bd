"""How fast a teacher is asked beside how fast it was trained, and what memory asking takes.

    python -m benchmarks.scoring_speed                             # a gpt member, MovieLens (bundled set)
    python -m benchmarks.scoring_speed --config configs/quickstart.yaml --run runs/quickstart     # a fused teacher
    python -m benchmarks.scoring_speed --steps 8 --contexts 4096   # a quick look

The gpt member: some training steps (forward, backward, optimiser; a context is a place with a label), then scoring as
`distill score-teacher` does it, files included. The fused teacher: the contexts that its history members learned from a
second of the whole stage, from the manifest, beside the scoring of its transfer set. Both in seconds of the processor
as well as by the clock, since a busy machine disturbs only the latter. Memory is the peak of a process of its own that
scores so many contexts, and of one that scores ten times as many. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from distill.config import load as load_config
from distill.data.contexts import Contexts, train_contexts
from distill.data.dataset import Dataset
from distill.engine.local import Local
from distill.engine.loop import parameter_groups
from distill.memory import keep_freed_memory
from distill.progress import console
from distill.runs import read_manifest
from distill.score_teacher import score_contexts
from distill.soft.store import StoreHeader, StoreWriter
from distill.train_teacher import load_teacher
from teachers.fusion import FusedTeacher
from teachers.protocol import Inputs
from teachers.sequence_body import Gpt

SETTINGS = {"width": 128, "hidden_size": 128, "layers": 2, "max_length": 50, "batch_size": 64}


@dataclass
class Spent:
    """Seconds by the clock and of the processor."""

    clock: float
    processor: float

    @classmethod
    def by(cls, action) -> Spent:
        """What an action takes."""
        clock, processor = time.perf_counter(), time.process_time()
        action()
        return cls(time.perf_counter() - clock, time.process_time() - processor)


def gpt_of(dataset: Dataset, chosen: argparse.Namespace) -> Gpt:
    """A member made but not trained."""
    torch.manual_seed(0)
    settings = SETTINGS | {"hidden_size": chosen.hidden_size, "layers": chosen.layers, "backbone": chosen.backbone}
    member = Gpt(**settings)
    member.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    return member


def train_some(member: Gpt, steps: int) -> tuple[int, Spent]:
    """Contexts that some steps learned from, and what they took; two steps before are not counted."""
    job = member.job()
    assert job is not None
    optimizer = torch.optim.AdamW(parameter_groups(job.model, job.weight_decay), lr=job.learning_rate, fused=True)
    batches = job.batches(0)
    batches = (batches * (1 + (steps + 2) // len(batches)))[: steps + 2]
    contexts = 0

    def step(rows: np.ndarray) -> None:
        nonlocal contexts
        batch = job.collate(rows)
        contexts += int((batch["label"] >= 0).sum())
        job.model(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(job.model.parameters(), job.clip)
        optimizer.step()
        optimizer.zero_grad()

    def all_of(some: list[np.ndarray]) -> None:
        for rows in some:
            step(rows)

    job.model.train()
    all_of(batches[:2])
    contexts = 0
    spent = Spent.by(lambda: all_of(batches[2:]))
    return contexts, spent


def header_of(dataset: Dataset, k: int) -> StoreHeader:
    """A store with one temperature and no tail."""
    return StoreHeader(k, [1.0], 0, dataset.n_items, dataset.item_vocabulary, dataset.fingerprint, "t" * 64)


def score_some(teacher: FusedTeacher, contexts: Contexts, dataset: Dataset, k: int) -> Spent:
    """What scoring contexts into a store takes."""
    with tempfile.TemporaryDirectory() as name:
        writer = StoreWriter(Path(name), header_of(dataset, k))
        return Spent.by(lambda: score_contexts(teacher, contexts, writer, 0, 0, 16384, Local(), 0))


def many(dataset: Dataset, count: int) -> Contexts:
    """So many real contexts, all prefixes of a user side by side; the users over again where there are too few."""
    contexts = train_contexts(dataset)
    return contexts.take(np.arange(count) % len(contexts))


def teacher_of(chosen: argparse.Namespace) -> tuple[FusedTeacher, Dataset]:
    """The fused teacher of a finished run, or a gpt member alone."""
    if chosen.run:
        run = Path(chosen.run)
        config = load_config(chosen.config, [f"run.folder={run.parent}", f"run.name={run.name}"])
        return load_teacher(config), Dataset.read(run / "data")
    dataset = Dataset.read(Path(chosen.data))
    member = gpt_of(dataset, chosen)
    member._serve()
    return FusedTeacher({"gpt": member}, {"gpt": 1.0}), dataset


def memory(chosen: argparse.Namespace, count: int) -> float:
    """Peak megabytes of a process of its own that scores so many contexts."""
    program = [sys.executable, "-m", "benchmarks.scoring_speed", *sys.argv[1:], "--peak-of", str(count)]
    if not chosen.run and "--data" not in sys.argv:
        program += ["--data", chosen.data]
    done = subprocess.run(program, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def trained_by_the_run(chosen: argparse.Namespace) -> tuple[int, Spent]:
    """Contexts that a run's history members learned from, and the seconds of the whole stage."""
    run = Path(chosen.run)
    config = load_config(chosen.config, [f"run.folder={run.parent}", f"run.name={run.name}"])
    manifest = read_manifest(run / "teacher") or {}
    rows = int((train_contexts(Dataset.read(run / "data")).target >= 0).sum())
    contexts = 0
    for name, curve in manifest["result"]["curves"].items():
        if curve and config.teacher.members[name].name != "text_tower":
            contexts += round(rows * curve[-1]["epoch"])
    return contexts, Spent(manifest["seconds"], float("nan"))


def figures_of(chosen: argparse.Namespace) -> dict[str, float]:
    """All figures; see the module's text."""
    teacher, dataset = teacher_of(chosen)
    if chosen.run:
        learned, training = trained_by_the_run(chosen)
    else:
        member = gpt_of(dataset, chosen)
        learned, training = train_some(member, chosen.steps)
        member._serve()
        teacher = replace(teacher, members={"gpt": member})
    contexts = many(dataset, chosen.contexts)
    score_some(teacher, contexts.take(np.arange(min(512, len(contexts)))), dataset, chosen.k)
    scoring = min((score_some(teacher, contexts, dataset, chosen.k) for _ in range(3)), key=lambda spent: spent.clock)
    figures = {
        "items": dataset.n_items,
        "contexts": len(contexts),
        "trained_contexts_per_second": learned / training.clock,
        "scored_contexts_per_second": len(contexts) / scoring.clock,
        "trained_contexts_per_processor_second": learned / training.processor,
        "scored_contexts_per_processor_second": len(contexts) / scoring.processor,
    }
    figures["times_training"] = figures["scored_contexts_per_second"] / figures["trained_contexts_per_second"]
    by_processor = figures["scored_contexts_per_processor_second"] / figures["trained_contexts_per_processor_second"]
    figures["times_training_by_processor"] = by_processor
    if not chosen.no_memory:
        figures["peak_megabytes"] = memory(chosen, chosen.contexts)
        figures["peak_megabytes_at_ten_times"] = memory(chosen, 10 * chosen.contexts)
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="folder of a prepared data set; the bundled set, prepared anew, by default")
    parser.add_argument("--config", default="configs/quickstart.yaml", help="settings of --run")
    parser.add_argument("--run", help="folder of a finished run whose fused teacher is asked")
    parser.add_argument("--backbone", default="scratch", help="body of the gpt member")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--contexts", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if not chosen.run and not chosen.data:
            chosen.data = folder
            prepare_bundled(Path(folder))
        if chosen.peak_of:
            teacher, dataset = teacher_of(chosen)
            score_some(teacher, many(dataset, chosen.peak_of), dataset, chosen.k)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        figures = figures_of(chosen)
    table = Table("figure", "value", title="scoring speed")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    console.print(table)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def prepare_bundled(folder: Path) -> None:
    """The bundled set, as the quickstart prepares it."""
    from distill.data.load import build_dataset

    build_dataset(load_config("configs/quickstart.yaml", []).data).write(folder)


if __name__ == "__main__":
    main()
