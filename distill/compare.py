"""The command `distill compare`: several finished runs in one table, with significance letters."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.report.shape import find_model, latency, served_model
from benchmarks.report.text import duration, size
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.evaluate import plain
from distill.plugins import nearest
from distill.progress import console
from distill.ranking.cases import Cases, cases_of
from distill.ranking.comparison import Comparison, compare, label
from distill.ranking.evaluator import Evaluation, evaluate
from distill.runs import open_stage, write_json

LISTS = "lists.npz"  # the ranked lists of every model, written with the report
METRICS = ("ndcg@10", "recall@10", "tail_ndcg@10", "tail_recall@10")
WHOLE = ("coverage@10", "tail_coverage@10", "gini@10")  # one value of all lists: shown, not tested
EXAMPLES = """examples:
  distill compare runs/quickstart runs/mine
  distill compare runs/quickstart runs/mine --models teacher,student
  distill compare runs/quickstart runs/mine --output comparison.json"""


@dataclass(frozen=True)
class Entry:
    """One model of one run.

    Attributes:
        name: The run's name, with the model's where several are compared.
        model: The model's entry in report.json.
        evaluation: Its metrics, user by user.
    """

    name: str
    model: dict[str, Any]
    evaluation: Evaluation


def compare_command(arguments: Sequence[str]) -> int:
    """`distill compare`: prints the table, writes JSON where asked, and returns the exit code.

    Raises:
        UserError: A run has no report, lacks a model, or was made on other data than the first.
    """
    chosen = make_parser().parse_args(arguments)
    wanted = [name.strip() for name in chosen.models.split(",") if name.strip()]
    entries = entries_of(chosen.runs, wanted)
    found = compare({entry.name: entry.evaluation for entry in entries}, METRICS, seed=chosen.seed)
    console.print(table(entries, found))
    if chosen.output:
        costs = {e.name: {"p50_ms": latency(e.model), "bytes": e.model.get("bytes")} for e in entries}
        whole = {e.name: {name: e.evaluation.values[name] for name in WHOLE} for e in entries}
        write_json(chosen.output, plain({**found.as_json(), "not_tested": whole, "costs": costs}))
        console.print(f"wrote {chosen.output}", markup=False)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="distill compare",
        description="Finished runs on the same data side by side; letters say who is significantly better.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders such as runs/quickstart")
    parser.add_argument("--models", default="", help="names with commas between them (default: the file to be served)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sign flips")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write everything as JSON")
    return parser


def entries_of(runs: Sequence[Path], wanted: Sequence[str]) -> list[Entry]:
    """The wanted models of all runs; the one that would be served where none is named.

    Raises:
        UserError: See `compare_command`; also where two runs have one name.
    """
    cases: Cases | None = None
    found: dict[str, Entry] = {}
    for run in runs:
        open_stage(run / "report")
        report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
        dataset = Dataset.read(run / "data")
        cases = cases or cases_of(dataset, TEST)
        if dataset.fingerprint != cases.fingerprint:
            raise UserError(
                f"{run} was made on the data set {dataset.fingerprint[:12]}, {runs[0]} on {cases.fingerprint[:12]}; "
                "only runs on the same prepared data can be compared."
            )
        served = served_model(report)
        for name in wanted or [served["name"] if served else "student"]:
            model = find_model(report, name)
            if model is None:
                names = [m["name"] for m in report["models"]]
                raise UserError(f"{run} has no model '{name}'{nearest(name, names)}.")
            title = f"{run.name}/{name}" if len(wanted) > 1 else run.name
            title = name if len(runs) == 1 else title
            title = str(run) if title in found else title
            ranked = lists_of(run, name)
            found[title] = Entry(title, dict(model), evaluate(ranked, cases, [*METRICS, *WHOLE]))
    return list(found.values())


def lists_of(run: Path, name: str) -> np.ndarray:
    """The ranked lists of a model, int32 (U, 10).

    Raises:
        UserError: The report was made by a version that didn't keep them.
    """
    path = run / "report" / LISTS
    if not path.is_file():
        raise UserError(f"{run}/report keeps no ranked lists. Make it again: remove it, then distill benchmark CONFIG")
    with np.load(path) as lists:
        return lists[name]


def table(entries: Sequence[Entry], found: Comparison) -> Table:
    """One row a model: metrics with letters, then what isn't tested: coverage, speed and size."""
    caption = f"metrics @10; letters: better than that model, Holm-adjusted p ≤ {found.alpha}; the rest isn't tested"
    drawn = Table(caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    drawn.add_column("")
    drawn.add_column("model", overflow="fold", min_width=10)
    for title in (*METRICS, *WHOLE, "p50", "size"):
        words = title.removesuffix("@10").replace("coverage", "cov.").replace("_", "\n")
        drawn.add_column(words, justify="right", no_wrap=True)
    for row, entry in enumerate(entries):
        tested = [f"{found.means[row, m]:.4f} {found.letters(row, m)}".rstrip() for m in range(len(METRICS))]
        whole = [f"{entry.evaluation.values[name]:.4f}" for name in WHOLE]
        costs = [duration(latency(entry.model)), size(entry.model.get("bytes"))]
        drawn.add_row(label(row), entry.name, *tested, *whole, *costs)
    return drawn


if __name__ == "__main__":
    from distill.cli import guarded

    sys.exit(guarded(lambda: compare_command(sys.argv[1:])))
