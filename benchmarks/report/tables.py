"""The main table, once as data and then for the terminal, as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report.shape import (
    Model,
    Report,
    interval,
    is_number,
    latency,
    lower_is_better,
    metric,
    metric_names,
    metric_title,
    ordered_models,
    printable,
)
from benchmarks.report.text import count, duration, number, short_count, size

TERMINAL_STYLES = {
    "teacher": "bold magenta",
    "student": "bold blue",
    "export": "green",
    "control": "cyan",
    "baseline": "dim",
}


@dataclass(frozen=True)
class Column:
    """A column of the main table.

    Attributes:
        key: Stable name, as in report.json: "ndcg@10", "bytes", "p50".
        title: Heading for people.
        value: Reads the number from a model; None where it was not measured.
        show: Prints the number.
        low: Whether the smaller value is the better one.
    """

    key: str
    title: str
    value: Callable[[Model], float | None]
    show: Callable[[Any], str]
    low: bool = False


def columns(report: Report) -> list[Column]:
    """Metrics, the headline ones first, then parameters, bytes and latency at batch 1.

    What no model has is left out.
    """
    metrics = [
        Column(name, metric_title(name), partial(metric, name=name), number, lower_is_better(name))
        for name in metric_names(report)
    ]
    costs = [
        Column("parameters", "Parameters", partial(_plain, key="parameters"), short_count, low=True),
        Column("bytes", "Size", partial(_plain, key="bytes"), size, low=True),
        Column("p50", "p50", partial(latency, percentile="p50"), duration, low=True),
        Column("p99", "p99", partial(latency, percentile="p99"), duration, low=True),
    ]
    return [*metrics, *(c for c in costs if any(c.value(m) is not None for m in report["models"]))]


def best_rows(column: Column, models: list[Model]) -> set[int]:
    """Rows that hold the best value of a column as it is printed, so that equal-looking numbers are marked alike.

    Empty where fewer than two models have a value or where all are alike: being the best of one says nothing.
    """
    values = {row: value for row, model in enumerate(models) if (value := column.value(model)) is not None}
    shown = {column.show(value) for value in values.values()}
    if len(values) < 2 or len(shown) < 2:
        return set()
    best = column.show((min if column.low else max)(values.values()))
    return {row for row, value in values.items() if column.show(value) == best}


def terminal_table(report: Report) -> Table:
    """The main table without intervals, for 80 characters and more; the best of each column is bold and underlined."""
    models, wanted = ordered_models(report), _terminal_columns(report)
    cutoffs = {c.title.partition("@")[2] for c in wanted if "@" in c.title}
    shared = f"@{cutoffs.pop()}" if len(cutoffs) == 1 else ""
    table = Table(
        title=printable(report.get("title", "Benchmark")),
        caption=f"Metrics {shared}; latency of one call, p50." if shared else "Latency of one call, p50.",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("Model", overflow="fold", min_width=12)
    for column in wanted:
        title = column.title.removesuffix(shared) if shared else column.title
        table.add_column(title.replace("overage", "ov.").replace(" ", "\n"), justify="right", no_wrap=True)
    best = [best_rows(column, models) for column in wanted]
    for row, model in enumerate(models):
        cells = [Text(c.show(c.value(model)), "bold underline" if row in best[i] else "") for i, c in enumerate(wanted)]
        last = row + 1 == len(models) or models[row + 1]["role"] != model["role"]
        table.add_row(Text(printable(model["name"]), TERMINAL_STYLES.get(model["role"], "")), *cells, end_section=last)
    return table


def to_csv(report: Report) -> str:
    """One line a model, numbers in full; metrics have `_low` and `_high` columns for their intervals."""
    names = metric_names(report)
    timed = sorted({(s, p) for m in report["models"] for s, row in (m.get("latency_ms") or {}).items() for p in row})
    ends = [f"{n}{end}" for n in names for end in ("", "_low", "_high")]
    header = ["name", "role", "seed", *ends, "parameters", "bytes", *(f"latency_ms.{s}.{p}" for s, p in timed)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for model in ordered_models(report):
        values = [v for n in names for v in (metric(model, n), *(interval(model, n) or (None, None)))]
        times = [latency(model, percentile, scenario) for scenario, percentile in timed]
        plain = [model.get("seed"), *values, model.get("parameters"), model.get("bytes"), *times]
        writer.writerow([printable(model["name"]), model["role"], *("" if v is None else v for v in plain)])
    return buffer.getvalue()


def to_latex(report: Report) -> str:
    r"""A `table*` for a paper (needs \usepackage{booktabs}); the best of each column is bold."""
    models, wanted = ordered_models(report), columns(report)
    best = [best_rows(column, models) for column in wanted]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"  \centering\small",
        rf"  \caption{{{latex(_caption(report))}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(wanted)}}}",
        r"    \toprule",
        "    " + " & ".join(["Model", *(latex(c.title) for c in wanted)]) + r" \\",
        r"    \midrule",
    ]
    for row, model in enumerate(models):
        cells = [latex(c.show(c.value(model))) for c in wanted]
        cells = [rf"\textbf{{{cell}}}" if row in best[i] else cell for i, cell in enumerate(cells)]
        lines.append("    " + " & ".join([latex(model["name"]), *cells]) + r" \\")
        if row + 1 < len(models) and models[row + 1]["role"] != model["role"]:
            lines.append(r"    \addlinespace")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table*}", ""])


def latex(text: Any) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "#$%&_"} | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    special |= {"–": "--", "−": "$-$", "×": r"$\times$", "µ": r"\textmu{}", "\n": " "}
    return "".join(special.get(c, c) for c in printable(text))


def _caption(report: Report) -> str:
    data = report.get("data") or {}
    facts = [f"{count(data[key])} {key}" for key in ("users", "items", "interactions") if is_number(data.get(key))]
    about = f" on {data['name']} ({', '.join(facts)})" if data.get("name") and facts else ""
    return (
        f"{report.get('title', 'Benchmark')}{about}. Latency of one call at batch 1; best value of each column in bold."
    )


def _terminal_columns(report: Report) -> list[Column]:
    """The columns that fit in 80 characters: seven metrics, size and p50; the rest is in the other formats."""
    names = metric_names(report)[:7]
    return [c for c in columns(report) if c.key in (*names, "bytes", "p50")]


def _plain(model: Model, key: str) -> float | None:
    value = model.get(key)
    return value if is_number(value) else None
