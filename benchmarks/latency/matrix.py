"""The full latency benchmark: every scenario, batch size, thread number, catalogue size and stream, as flat rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.client import ROOT, Worker
from benchmarks.latency.figures import cost, figures
from benchmarks.latency.machine import BUSY, background_load, cores, describe_machine
from benchmarks.latency.single import in_turns
from distill.config.benchmark import Latency
from distill.errors import UserError
from distill.progress import say
from distill.serving.runtime import read_about

Row = dict[str, Any]
QUEUE = 20
FEW = 3  # calls that even the slowest engine makes


@dataclass(frozen=True)
class Subject:
    """An engine to be measured.

    Attributes:
        name: Its name in the table.
        about: What one answer of it is, in words.
        factory: "module:function" that opens it in its own process.
        arguments: Plain values for the factory.
        catalogue: Items that it ranks.
        bytes: Size of its files; None where it has no meaning.
        export: Whether it is an exported file, which is measured in every way.
        threads: Cores it is pinned to, 1 or all of them.
        row_bytes: Bytes of one item vector in an exported file.
    """

    name: str
    about: str
    factory: str
    arguments: Mapping[str, Any]
    catalogue: int
    bytes: int | None = None
    export: bool = False
    threads: int = 1
    row_bytes: int = 0


def measure_all(subjects: Sequence[Subject], bundle: Path, settings: Latency, folder: Path) -> dict[str, Any]:
    """Measures everything.

    Args:
        subjects: Engines on their own catalogue, with one thread.
        bundle: The exported bundle, padded for the larger catalogues.
        settings: The section `benchmark.latency`.
        folder: Where padded bundles may lie meanwhile.

    Returns:
        What latency.json holds: "machine", "rows", "skipped" (name to reason), "settings".
    """
    machine = describe_machine()
    say(f"background load {machine['background_load']:.0%}" + ("" if machine["reliable"] else ": UNRELIABLE"))
    rows, skipped = own_catalogue(subjects, settings)
    exports = [subject for subject in subjects if subject.export and subject.name not in skipped]
    for n_items in settings.catalogues:
        if n_items > max((subject.catalogue for subject in exports), default=n_items):
            rows += larger_catalogue(exports, bundle, n_items, settings, folder / str(n_items))
    machine["background_load_after"] = background_load()
    machine["reliable"] = machine["reliable"] and machine["background_load_after"] <= BUSY
    return {"machine": machine, "rows": rows, "skipped": skipped, "p99_bound_ms": settings.p99_bound_ms}


def own_catalogue(subjects: Sequence[Subject], settings: Latency) -> tuple[list[Row], dict[str, str]]:
    """All engines on the real catalogue: single stream in turns, then each alone under load and offline."""
    rows: list[Row] = []
    with opened(subjects) as (workers, skipped):
        present = [subject for subject in subjects if subject.name in workers]
        for place, stream in enumerate(settings.streams):
            asked = present if place == 0 else [subject for subject in present if subject.export]
            rows += single_stream({s.name: (s, workers[s.name]) for s in asked}, stream, settings)
        typical = {row["engine"]: row["mean"] for row in rows if row["scenario"] == "single_stream"}
        for subject in present:
            say(f"open loop and offline: {subject.name}")
            rows += open_loop(subject, workers[subject.name], typical[subject.name], settings)
            rows += offline(subject, workers[subject.name], settings) if subject.export else []
    rows += several_threads([subject for subject in present if subject.export], settings)
    return rows, skipped


@contextmanager
def opened(subjects: Sequence[Subject]) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Processes of all engines, by name, and why some are missing."""
    with ExitStack() as stack:
        found, skipped = {}, {}
        for subject in subjects:
            worker = stack.enter_context(Worker(subject.factory, dict(subject.arguments), pinned(subject.threads)))
            try:
                worker.opened()
                found[subject.name] = worker
            except UserError as error:
                skipped[subject.name] = str(error)
                say(f"{subject.name} is left out: {error}")
        yield found, skipped


def pinned(threads: int) -> list[int]:
    """The last cores: the first one serves the system's interrupts and this program."""
    return cores()[-threads:]


def single_stream(measured: Mapping[str, tuple[Subject, Worker]], stream: str, settings: Latency) -> list[Row]:
    """One request after the other, the engines in turns."""
    say(f"single stream, {stream} users: {', '.join(measured)}")
    heat, calls = {}, {}
    cpu = dict.fromkeys(measured, 0.0)
    memory = dict.fromkeys(measured, 0)
    for name, (_, worker) in measured.items():
        heat[name] = worker.ask("warm", calls=settings.warmup, seconds=settings.seconds)
        tried = heat[name]["first"] / 1e9
        if tried < settings.seconds / 10:  # the first call says little of the others
            tried = np.median(worker.ask("single", stream=stream, calls=FEW, start=0, stop=FEW)["nanoseconds"]) / 1e9
        calls[name] = int(np.clip(settings.seconds / tried, FEW, settings.calls))

    def runner(name: str, numbers: range) -> list[int]:
        reply = measured[name][1].ask(
            "single", stream=stream, calls=calls[name], start=numbers.start, stop=numbers.stop
        )
        cpu[name] += reply["cpu_seconds"]
        memory[name] = reply["resident_bytes"]
        return reply["nanoseconds"]

    times = in_turns({name: partial(runner, name) for name in measured}, calls)
    rows = []
    for name, (subject, _) in measured.items():
        found = figures(np.array(times[name]), heat[name]["first"])
        spent = cost(cpu[name], calls[name], settings.core_hour_price)
        own = {"per_second": 1000 / found["mean"], "resident_bytes": memory[name], "warmup": heat[name]["warmup"]}
        rows.append({**about(subject, "single_stream", stream), **found, **spent, **own})
    return rows


def open_loop(subject: Subject, worker: Worker, mean: float, settings: Latency) -> list[Row]:
    """Poisson arrivals at shares of the rate that the engine reaches when it is never idle.

    An engine that answers fewer than `QUEUE` requests in the time isn't asked: so few show no queue.
    """
    rows: list[Row] = []
    if settings.seconds * 1000 / mean < QUEUE:
        return rows
    for load in settings.loads:
        rate = load * 1000 / mean
        calls = int(np.clip(rate * settings.seconds, FEW, settings.calls))
        reply = worker.ask("open_loop", stream=settings.streams[0], rate=rate, calls=calls, seed=5)
        found = figures(np.array(reply["nanoseconds"]))
        rows.append({**about(subject, "open_loop", settings.streams[0]), "load": load, "per_second": rate, **found})
    return rows


def offline(subject: Subject, worker: Worker, settings: Latency) -> list[Row]:
    """Batches as fast as they go."""
    rows = []
    for batch in settings.batches:
        reply = worker.ask("offline", stream=settings.streams[0], batch=batch, seconds=min(1.0, settings.seconds))
        times = np.array(reply["nanoseconds"])
        answers = batch * len(times)
        spent = cost(reply["cpu_seconds"], answers, settings.core_hour_price)
        own = {"per_second": answers / times.sum() * 1e9, "resident_bytes": reply["resident_bytes"]}
        found = figures(times, intervals=False)
        rows.append({**about(subject, "offline", settings.streams[0]), "batch": batch, **found, **spent, **own})
    return rows


def several_threads(exports: Sequence[Subject], settings: Latency) -> list[Row]:
    """The exported files again with a thread on every core."""
    count = len(cores())
    if count == 1:
        return []
    rows: list[Row] = []
    for subject in exports:
        wide = replace(subject, threads=count, arguments={**subject.arguments, "threads": count})
        with opened([wide]) as (workers, _):
            for name, worker in workers.items():
                rows += single_stream({name: (wide, worker)}, settings.streams[0], settings)
                rows += offline(wide, worker, replace(settings, batches=settings.batches[-1:]))
    return rows


def larger_catalogue(
    exports: Sequence[Subject], bundle: Path, n_items: int, settings: Latency, folder: Path
) -> list[Row]:
    """The exported files with synthetic items behind the real ones, on one thread and on all."""
    say(f"padding the catalogue to {n_items:,} items")
    command = [sys.executable, "-m", "benchmarks.latency.padded", str(bundle.resolve()), str(folder), str(n_items)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or ["padding the catalogue failed"])[-1])
    sizes = {name: entry["bytes"] for name, entry in read_about(folder)["variants"].items()}
    padded = [
        replace(
            subject,
            arguments={**subject.arguments, "folder": str(folder)},
            catalogue=n_items,
            bytes=sizes[subject.arguments["variant"]],
        )
        for subject in exports
        if subject.arguments["variant"] in sizes
    ]
    rows: list[Row] = []
    with opened(padded) as (workers, _):
        rows += single_stream({s.name: (s, workers[s.name]) for s in padded}, settings.streams[0], settings)
        for subject in padded:
            rows += offline(subject, workers[subject.name], replace(settings, batches=settings.batches[-1:]))
    return rows + several_threads(padded, settings)


def about(subject: Subject, scenario: str, stream: str) -> Row:
    """What a row was measured on."""
    return {
        "engine": subject.name,
        "about": subject.about,
        "scenario": scenario,
        "stream": stream,
        "catalogue": subject.catalogue,
        "threads": subject.threads,
        "batch": 1,
        "bytes": subject.bytes,
        "table_bytes": subject.catalogue * subject.row_bytes if subject.export else None,
    }
