"""Publishes finished runs: their figures under benchmarks/results/, docs/results.md, and what the README shows.

python -m benchmarks.publish runs/amazon_office_minilm runs/ml100k_minilm --quickstart runs/quickstart
python -m benchmarks.publish --again ml100k_minilm    runs a published command again and replaces its table
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
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
from distill.errors import UserError
from distill.plugins import nearest
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
    "machine",
    "latency",
    "item_changes",
    "stages",
    "environment",
    "command",
)
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the results and the README's sections from reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run folders with a finished report")
    parser.add_argument("--again", metavar="NAME", help="run the command of a published table again, then publish it")
    parser.add_argument("--quickstart", type=Path, help="the run whose terminal output the README shows")
    chosen = parser.parse_args(arguments)
    if chosen.again:
        chosen.runs.append(run_again(chosen.again))
    reports = {run.name: json.loads((run / "report" / "report.json").read_text()) for run in chosen.runs}
    for name, report in reports.items():
        kept = {key: report[key] for key in KEPT if key in report}
        write_json(RESULTS / f"{name}.json", {**kept, "commit": commit()})
        picture(report, ROOT / "docs" / "images" / f"{name}.svg")
    (ROOT / "docs" / "results.md").write_text(results_page())
    page = ROOT / "README.md"
    text = page.read_text()
    text = between(text, "results", "\n\n".join(section(name, report) for name, report in published().items()))
    if chosen.quickstart:
        shown = json.loads((chosen.quickstart / "report" / "report.json").read_text())
        text = between(text, "quickstart", f"```text\n{terminal(shown)}\n```")
    page.write_text(text)
    return 0


def run_again(name: str) -> Path:
    """Runs the command of a published table and returns the run's folder.

    Raises:
        UserError: No table of that name is published.
    """
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        known = [found.stem for found in RESULTS.glob("*.json")]
        raise UserError(f"There is no published table '{name}'{nearest(name, known)}.")
    _, *words = shlex.split(json.loads(path.read_text())["command"])
    subprocess.run([sys.executable, "-m", "distill.cli", *words], cwd=ROOT, check=True)
    places = [word.partition("=")[2] for word in words if word.startswith("run.folder=")]
    return ROOT / (places[-1] if places else "runs") / name


def commit() -> str:
    """The commit that the code stands at, with "+" where files were changed since; "unknown" outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def published() -> dict[str, dict[str, Any]]:
    """The reports under benchmarks/results/ by name; figures of other kinds lie there too."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return {name: report for name, report in found.items() if "verdict" in report}


def results_page() -> str:
    """docs/results.md: every published table with commit, machine and command."""
    reports = published()
    parts = [
        "# Results",
        "Made by `python -m benchmarks.publish` from benchmarks/results/; don't edit it. Small print: 95% interval "
        "over users. Latencies are those of one request at a time. `make results RUN=NAME` makes a table again.",
    ]
    for name, report in reports.items():
        machine = (report.get("machine") or {}).get("processor", "unknown processor")
        cores, made = report["environment"]["processors"], report.get("commit", "unknown")
        table_text = section(name, report).replace("### ", "## ", 1)
        parts.append(f"{table_text}\n\nMachine: {machine}, {cores} cores. Commit: {made}.")
    return "\n\n".join(parts) + "\n"


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
    from distill.cli import guarded

    sys.exit(guarded(main))
