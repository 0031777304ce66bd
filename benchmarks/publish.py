"""Publishes finished runs: their figures under benchmarks/results/, the tables and pictures that the README shows.

python -m benchmarks.publish runs/amazon_office_minilm runs/ml100k_minilm --quickstart runs/quickstart
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report import terminal_table
from benchmarks.report.markdown import table
from benchmarks.report.plots import trade_offs
from benchmarks.report.shape import ordered_models
from benchmarks.report.text import duration, size
from distill.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("ndcg@10", "recall@10", "tail_ndcg@10", "coverage@10", "tail_coverage@10")
KEPT = (
    "title",
    "verdict",
    "models",
    "distillation",
    "teacher_gate",
    "teacher",
    "data",
    "stages",
    "environment",
    "command",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the results and the README's sections from reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with a finished report")
    parser.add_argument("--quickstart", type=Path, help="the run whose terminal output the README shows")
    chosen = parser.parse_args(arguments)
    reports = {run.name: json.loads((run / "report" / "report.json").read_text()) for run in chosen.runs}
    for name, report in reports.items():
        write_json(
            ROOT / "benchmarks" / "results" / f"{name}.json", {key: report[key] for key in KEPT if key in report}
        )
        picture(report, ROOT / "docs" / "images" / f"{name}.svg")
    page = ROOT / "README.md"
    text = page.read_text()
    text = between(text, "results", "\n\n".join(section(name, report) for name, report in reports.items()))
    if chosen.quickstart:
        shown = json.loads((chosen.quickstart / "report" / "report.json").read_text())
        text = between(text, "quickstart", f"```text\n{terminal(shown)}\n```")
    page.write_text(text)
    return 0


def section(name: str, report: dict[str, Any]) -> str:
    """One data set's table, with what distillation gave and the command that regenerates it."""
    rows = []
    for model in ordered_models(report):
        cells = [figure(model, column) for column in COLUMNS]
        p50 = ((model.get("latency_ms") or {}).get("batch_1") or {}).get("p50")
        rows.append([f"`{model['name']}`", *cells, duration(p50) if p50 else "–", size(model["bytes"])])
    header = ["model", *COLUMNS, "p50", "size"]
    kept = report["distillation"]["ndcg@10"]
    seeds = f"{kept['seeds']} seeds: student {spread(kept['student'])}, undistilled {spread(kept['control'])} ndcg@10. "
    total = sum(report["stages"].values())
    data = report["data"]
    return (
        f"### {data['name']}: {data['users']:,} users, {data['items']:,} items, {data['split']}\n\n"
        f"{report['verdict']}\n\n{table(header, rows)}\n\n"
        f"{seeds}All stages: {total / 60:.0f} min on {report['environment']['processors']} CPU cores. "
        f"Regenerate: `{report['command']}`."
    )


def figure(model: Mapping[str, Any], name: str) -> str:
    """A metric with its 95 % interval over users."""
    low, high = model["intervals"][name]
    return f"{model['metrics'][name]:.4f} <sub>{low:.3f}–{high:.3f}</sub>"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5:.4f}"


def picture(report: dict[str, Any], path: Path) -> None:
    """Accuracy against tail coverage, as an SVG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = trade_offs(report)[0].svg
    if "xmlns=" not in svg[: svg.index(">")]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    path.write_text(svg + "\n")


def terminal(report: dict[str, Any]) -> str:
    """What `distill benchmark` prints."""
    console = Console(width=100, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(terminal_table(report))
        console.print(report["verdict"], markup=False)
        console.print("report: runs/quickstart/report/report.html")
    return "\n".join(line.rstrip() for line in capture.get().strip().splitlines())


def between(text: str, name: str, content: str) -> str:
    """Puts content between the marks `<!-- name:start -->` and `<!-- name:end -->`."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.S)


if __name__ == "__main__":
    sys.exit(main())
