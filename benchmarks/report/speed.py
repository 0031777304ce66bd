"""The page's section on speed: what an answer takes and costs, and the full latency benchmark where it was run."""

from __future__ import annotations

from typing import Any

from benchmarks.report.html import Child, Html, data_table, section, tag
from benchmarks.report.latency_tables import machine_words, sheets
from benchmarks.report.shape import (
    TEACHER,
    TEACHER_ROWS,
    Report,
    as_interval,
    label,
    latency,
    ordered_models,
    price,
)
from benchmarks.report.text import count, duration, money, percent

HEADER = ("What answers", "min", "p50", "p90", "p99", "p99.9", "First call", "Calls", "Price per million")
NOTE = (
    "One context in, the top 10 of the whole catalogue out; one request at a time, one thread, models in turns. Small "
    "print: 95% interval. The price is that of a core kept busy by the median call, at "
    "benchmark.latency.core_hour_price."
)


def speed_section(report: Report) -> Html | None:
    """Latency of all models, the teacher in each of its ways; below it the full benchmark, folded away."""
    rows = speed_rows(report)
    full = report.get("latency")
    if not rows and not full:
        return None
    table = data_table("One answer at a time", HEADER, rows) if rows else None
    return section("speed", "Speed", table, full_benchmark(full) if full else None, note=[NOTE, " ", trust(report)])


def speed_rows(report: Report) -> list[list[Child]]:
    """A row for each model, and for each way in which the teacher was timed."""
    found: list[list[Child]] = []
    for model in ordered_models(report):
        measured = model.get("latency_ms") or {}
        known = [name for name in TEACHER_ROWS if name in measured]
        for scenario in (*known, *(name for name in measured if name not in TEACHER_ROWS)):
            if latency(model, "p50", scenario) is None:
                continue
            own = label(model["name"])
            name = f"{own}, {TEACHER_ROWS.get(scenario, scenario)}" if model["name"] == TEACHER else own
            if model["name"] != TEACHER and scenario != "batch_1":
                name = f"{own}, {scenario}"
            row = model["latency_ms"][scenario]
            cells: list[Child] = [name, duration(row.get("min"))]
            for percentile in ("p50", "p90", "p99", "p99.9"):
                ends = as_interval([row.get(f"{percentile}_low"), row.get(f"{percentile}_high")])
                small = tag("small", f"{duration(ends[0])}–{duration(ends[1])}") if ends else None
                cells.append([duration(row.get(percentile)), small])
            cells += [duration(row.get("first")), count(row.get("calls")), money(price(model, scenario))]
            found.append(cells)
    return found


def trust(report: Report) -> str:
    """What the machine was, and whether it was quiet; in words, for a reader who looks at nothing else."""
    machine: dict[str, Any] = dict(report.get("machine") or {})
    if not machine:
        return ""
    missing = "; ".join(machine.get("not_measured", {}).values())
    load = percent(machine.get("background_load"), 0)
    calm = f"The machine was quiet ({load} background load)."
    busy = f"UNRELIABLE: the machine was busy ({load} background load), so read the times as upper bounds."
    text = f"{machine.get('processor', '')}. {calm if machine.get('reliable') else busy}"
    return f"{text} Not measured: {missing}" if missing else text


def full_benchmark(full: dict[str, Any]) -> Html:
    """The tables of `distill benchmark CONFIG --only latency`."""
    tables = [data_table(sheet.caption, sheet.header, sheet.rows) for sheet in sheets(full)]
    left = [tag("li", f"{name}: {reason}") for name, reason in (full.get("skipped") or {}).items()]
    skipped = [tag("p", "Not measured:"), tag("ul", left)] if left else None
    words = tag("p", machine_words(full), class_="note")
    title = tag("summary", "Full latency benchmark: one process an engine, open loop, batches, catalogues")
    return tag("details", title, tag("div", words, tables, skipped), class_="example")
