"""The rows of the full latency benchmark as tables of text: one scenario each, for the terminal and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.report.text import MISSING, count, duration, money, number, percent, size

Row = Mapping[str, Any]
TIMES = ("min", "p50", "p90", "p99", "p99.9")
CACHE_BYTES = 64e6
COSTS = ("CPU s per million", "Price per million")


@dataclass(frozen=True)
class Sheet:
    """A table as text: caption, header, and rows whose first cell is their heading."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """All tables of a latency.json; empty ones are left out."""
    rows = found.get("rows") or []
    own = min((row["catalogue"] for row in rows), default=0)
    stream = rows[0]["stream"] if rows else ""
    single = [row for row in rows if row["scenario"] == "single_stream"]
    here = [row for row in single if row["catalogue"] == own and row["threads"] == 1]
    usual = [row for row in here if row["stream"] == stream]
    asked = {row["engine"] for row in here if row["stream"] != stream}
    grown = [row for row in single if row["catalogue"] != own or row["threads"] != 1]
    bound = found.get("p99_bound_ms", math.inf)
    made = [
        Sheet(
            f"One request at a time: top 10 of {own:,} items for one context, one thread, {stream} users",
            ["What answers", *TIMES, "First call", "Calls"],
            [[row["about"], *times(row), duration(row.get("first")), count(row["calls"])] for row in usual],
        ),
        Sheet(
            "Cost of one thread, one request at a time",
            ["What answers", "Requests/s", f"…at p99 ≤ {bound:g} ms", *COSTS, "Memory", "Files"],
            [[row["about"], rate(row), bounded(rows, row, bound), *costs(row), *sizes(row)] for row in usual],
        ),
        Sheet(
            "Open loop: Poisson arrivals, timed from the moment each request was due",
            ["What answers", "Load", "Requests/s", *TIMES, "Calls"],
            [
                [row["about"], percent(row["load"], 0), rate(row), *times(row), count(row["calls"])]
                for row in rows
                if row["scenario"] == "open_loop"
            ],
        ),
        Sheet(
            "Offline: batches, answers a second",
            ["What answers", "Items", "Threads", "Batch", "Answers/s", "p50 of a batch", *COSTS],
            [
                [row["about"], *extent(row), count(row["batch"]), rate(row), duration(row["p50"]), *costs(row)]
                for row in rows
                if row["scenario"] == "offline"
            ],
        ),
        Sheet(
            "Larger catalogues (synthetic items behind the real ones) and more threads, one request at a time",
            ["What answers", "Items", "Threads", *TIMES, "Memory's limit", "Memory", "Files"],
            [[row["about"], *extent(row), *times(row), limit(row, found), *sizes(row)] for row in grown],
        ),
        Sheet(
            "Who asks",
            ["What answers", "Users", *TIMES],
            [[row["about"], row["stream"], *times(row)] for row in here if row["engine"] in asked],
        ),
    ]
    return [sheet for sheet in made if sheet.rows]


def machine_words(found: Mapping[str, Any]) -> str:
    """The machine and whether the figures can be trusted, in a sentence or two."""
    machine = found["machine"]
    bandwidth = machine["memory_bytes_per_second"] / 1e9
    text = (
        f"{machine['processor']}, {machine['cores']} cores; one core reads {bandwidth:.1f} GB/s from memory. "
        f"Background load: {percent(machine['background_load'], 0)} before, "
        f"{percent(machine.get('background_load_after'), 0)} after."
    )
    return text if machine["reliable"] else f"UNRELIABLE, the machine was busy (more than 10% load). {text}"


def terminal_tables(path: Path) -> list[Table]:
    """The tables of a latency.json for the terminal."""
    found = json.loads(path.read_text(encoding="utf-8"))
    made = []
    for sheet in sheets(found):
        drawn = Table(title=sheet.caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        for place, name in enumerate(sheet.header):
            drawn.add_column(name, justify="right" if place else "left", overflow="fold")
        for row in sheet.rows:
            drawn.add_row(*row)
        made.append(drawn)
    return made


def times(row: Row) -> list[str]:
    """min, p50, p90, p99 and p99.9 as people read them."""
    return [duration(row.get(name)) for name in TIMES]


def rate(row: Row) -> str:
    """Requests or answers a second: whole where there are many."""
    value = row["per_second"]
    return count(value) if value >= 100 else number(value, 2)


def costs(row: Row) -> list[str]:
    """Processor seconds and price of a million answers."""
    return [number(row["cpu_seconds_per_million"], 1), money(row["cost_per_million"])]


def sizes(row: Row) -> list[str]:
    """Resident memory of the process and bytes of the files."""
    return [size(row["resident_bytes"]), size(row["bytes"])]


def extent(row: Row) -> list[str]:
    """Catalogue and threads."""
    return [count(row["catalogue"]), count(row["threads"])]


def bounded(rows: Sequence[Row], row: Row, bound: float | None) -> str:
    """The highest tried rate of Poisson arrivals at which p99 stayed within the bound."""
    loaded = [r for r in rows if r["scenario"] == "open_loop" and r["engine"] == row["engine"]]
    kept = [r["per_second"] for r in loaded if bound and r.get("p99") is not None and r["p99"] <= bound]
    if kept:
        return count(max(kept)) if max(kept) >= 100 else number(max(kept), 2)
    return "none" if loaded else number(None)


def limit(row: Row, found: Mapping[str, Any]) -> str:
    """The time in which one core reads the item table from memory: no exact answer of one thread comes sooner.

    Left out where the table may lie in the processor's cache.
    """
    table_bytes = row.get("table_bytes") or 0
    if table_bytes < CACHE_BYTES:
        return MISSING
    return duration(table_bytes / found["machine"]["memory_bytes_per_second"] * 1000)
