"""The report as Markdown: verdict, figures and tables, for a repository, an issue or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.changes import HEADER as CHANGES
from benchmarks.report.changes import change_rows, change_words
from benchmarks.report.head_tables import HEADER as HEAD_COLUMNS
from benchmarks.report.head_tables import NOTE as NOTE_ON_HEADS
from benchmarks.report.head_tables import TITLE, head_rows
from benchmarks.report.html import plain_text
from benchmarks.report.latency_tables import machine_words, sheets
from benchmarks.report.shape import (
    Report,
    arranged,
    as_interval,
    example_lists,
    export_figures,
    interval,
    is_number,
    label,
    metric_title,
    ordered_models,
    printable,
    tail_definitions,
)
from benchmarks.report.speed import HEADER, NOTE, speed_rows, trust
from benchmarks.report.tables import best_rows, columns
from benchmarks.report.text import anything, number, p_value, percent, phrase, seconds, signed_percent
from benchmarks.report.verdict import inside_noise, verdict


def to_markdown(report: Report) -> str:
    """report.md: the verdict first, then the tables of the page and the command that makes them again."""
    report = arranged(report)
    gate = report.get("teacher_gate") or {}
    parts = [
        f"# {escape(report.get('title') or 'Benchmark report')}",
        escape(verdict(report)),
        _models(report),
        _distillation(report),
        _records("Teacher against each baseline", "Baseline", gate.get("baselines")),
        _records("Teacher against each baseline on the tail", "Baseline", (gate.get("tail") or {}).get("baselines")),
        _records("Teacher gate by stratum", "Stratum", gate.get("strata")),
        _records("Teacher", "Member", (report.get("teacher") or {}).get("weights"), "Weight"),
        _speed(report),
        _changes(report),
        _heads(report),
        _examples(report),
        _records("Export gate", "Variant", export_figures(report)),
        _data(report),
        _records("Environment", "What", report.get("environment")),
        _stages(report),
        _command(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def latency_markdown(full: Mapping[str, Any]) -> str:
    """The full latency benchmark alone: the machine, all tables, and what was left out."""
    left = [f"- {escape(name)}: {escape(reason)}" for name, reason in (full.get("skipped") or {}).items()]
    skipped = ["## Not measured\n\n" + "\n".join(left)] if left else []
    return "\n\n".join(["# Latency", escape(machine_words(full)), *_sheets(full, "##"), *skipped]) + "\n"


def escape(text: Any) -> str:
    """Text on one line that Markdown (and the HTML inside it) shows as it is."""
    special = r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w)|<(?=[\w/!?])|&(?=[\w#])|^[#>+=-])"
    return re.sub(special, r"\\\1", " ".join(printable(text).split()))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "---:") -> str:
    """A Markdown table of escaped cells; the first column is left-aligned, the others as `align` says."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + f"{align}|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _models(report: Report) -> str:
    models, wanted = ordered_models(report), columns(report)
    best = [best_rows(column, models) for column in wanted]
    rows = []
    for row, model in enumerate(models):
        cells = []
        for i, column in enumerate(wanted):
            ends = interval(model, column.key)
            value = escape(column.show(column.value(model)))
            value = f"**{value}**" if row in best[i] else value
            cells.append(value + (f" ({number(ends[0])}–{number(ends[1])})" if ends else ""))
        rows.append([f"`{_code(model['name'])}`", escape(model["role"]), *cells])
    note = "Best of each column in bold, 95% intervals over users in brackets, latency of one request at a time."
    return f"## Models\n\n{table(['Model', 'Role', *(escape(c.title) for c in wanted)], rows)}\n\n{note}"


def _distillation(report: Report) -> str:
    rows = []
    for name, kept in (report.get("distillation") or {}).items():
        ends = as_interval(kept.get("gain_interval"))
        extent = f" ({signed_percent(ends[0])} to {signed_percent(ends[1])})" if ends else ""
        noise = ", inside the noise" if inside_noise(ends) else ""
        closed = percent(kept["gap_closed"]) if is_number(kept.get("gap_closed")) else "not reported"
        gain = f"{signed_percent(kept.get('gain'))}{extent}{noise}"
        rows.append(
            [
                escape(metric_title(name)),
                percent(kept.get("retention")),
                gain,
                escape(p_value(kept.get("p_value"))),
                closed,
            ]
        )
    header = ["Metric", "Retention", "Gain", "Significance", "Gap closed"]
    return f"## What distillation gave\n\n{table(header, rows)}" if rows else ""


def _speed(report: Report) -> str:
    rows = [[escape(plain_text(cell)) for cell in row] for row in speed_rows(report)]
    parts = [f"## Speed\n\n{table(HEADER, rows)}\n\n{escape(f'{NOTE} {trust(report)}')}"] if rows else []
    return "\n\n".join([*parts, *_sheets(report.get("latency") or {}, "###")])


def _sheets(full: Mapping[str, Any], level: str) -> list[str]:
    found = []
    for sheet in sheets(full):
        body = [[escape(cell) for cell in row] for row in sheet.rows]
        found.append(f"{level} {escape(sheet.caption)}\n\n{table([escape(title) for title in sheet.header], body)}")
    return found


def _changes(report: Report) -> str:
    changes = report.get("item_changes") or {}
    parts = []
    for side, title in (("lost", "Lost most"), ("gained", "Gained most")):
        if changes.get(side):
            rows = [[escape(cell) for cell in row] for row in change_rows(changes[side])]
            parts.append(f"**{title}**\n\n{table(CHANGES, rows)}")
    return "\n\n".join(["## What the student lost and gained", change_words(changes), *parts]) if parts else ""


def _heads(report: Report) -> str:
    rows = [[escape(cell) for cell in row] for row in head_rows(report)]
    return f"## {TITLE}\n\n{NOTE_ON_HEADS}\n\n{table(HEAD_COLUMNS, rows)}" if rows else ""


def _examples(report: Report) -> str:
    blocks = []
    for example in report.get("examples") or []:
        lists, truth = example_lists(example), set(example.get("truth") or ())
        if not lists:
            continue
        depth = max(len(titles) for titles in lists.values())
        rows = [[str(place + 1), *(_title(t, place, truth) for t in lists.values())] for place in range(depth)]
        activity = f", {example['activity']} activity" if example.get("activity") else ""
        heading = f"**User {escape(example.get('user'))}{escape(activity)}**"
        blocks.append(heading + "\n\n" + table(["", *(escape(label(name)) for name in lists)], rows, align="---"))
    note = "## Recommendations side by side\n\nTitles in bold are what the user really chose next."
    return "\n\n".join([note, *blocks]) if blocks else ""


def _title(titles: Sequence[str], place: int, truth: set[str]) -> str:
    if place >= len(titles):
        return ""
    return f"**{escape(titles[place])}**" if titles[place] in truth else escape(titles[place])


def _data(report: Report) -> str:
    data = report.get("data") or {}
    if not data:
        return ""
    plain = {key: value for key, value in data.items() if key not in ("tail", "summary")}
    parts = [
        "## Data",
        table(["What", "Value"], [[escape(phrase(k)), escape(anything(k, v))] for k, v in plain.items()]),
    ]
    tails = _records("", "Tail", tail_definitions(report))
    cleaning = data.get("summary") or {}
    steps = (
        table(["Preparation", "Count"], [[escape(k), escape(anything(k, v))] for k, v in cleaning.items()])
        if cleaning
        else ""
    )
    return "\n\n".join(part for part in (*parts, tails, steps) if part)


def _records(title: str, first: str, records: Mapping[str, Any] | None, value_title: str = "Value") -> str:
    """A table of named records, or of named values."""
    if not records:
        return ""
    rows = {str(name): value if isinstance(value, Mapping) else {value_title: value} for name, value in records.items()}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    heading = f"## {title}\n\n" if title else ""
    body = [[escape(name), *(escape(anything(key, row.get(key))) for key in keys)] for name, row in rows.items()]
    return heading + table([first, *(escape(phrase(key)) for key in keys)], body)


def _stages(report: Report) -> str:
    stages = report.get("stages") or {}
    rows = [[escape(name), seconds(value)] for name, value in stages.items()]
    return f"## Time of each stage\n\n{table(['Stage', 'Time'], rows)}" if rows else ""


def _command(report: Report) -> str:
    command = printable(report.get("command") or "")
    # A fence longer than any run of backticks inside can't be closed by the text.
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    return f"## Make it again\n\n{fence}sh\n{command}\n{fence}" if command else ""


def _code(name: str) -> str:
    return " ".join(printable(name).replace("`", "'").replace("|", "\\|").split())
