"""Command `evaluate`: what recommendations are worth, whichever library made them."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from distill.data.dataset import PARTS, Dataset
from distill.errors import UserError
from distill.progress import console
from distill.ranking.cases import Cases, cases_of
from distill.ranking.comparison import compare
from distill.ranking.counterfactual import truth_sample_size
from distill.ranking.evaluator import Evaluation, evaluate
from distill.ranking.leaks import check_split, list_leaks, split_report
from distill.ranking.metrics import STANDARD, deepest
from distill.ranking.recommendations import read_recommendations
from distill.ranking.segments import describe_tails, three_by_three
from distill.ranking.strata import by_segment
from distill.runs import MANIFEST, open_stage, write_json

DESCRIPTION = """Evaluates recommendations on prepared data: full-catalogue metrics with 95 % intervals, both long-tail
definitions, the 3 x 3 table of item and user segments, and, for several files, a comparison
with significance letters."""
EXAMPLES = """examples:
  distill evaluate --recommendations recs.parquet --data runs/quickstart/data
  distill evaluate --recommendations mine.parquet theirs.csv --data runs/quickstart/data --output report.json
  distill evaluate --recommendations recs.parquet --data runs/quickstart/data --metrics ndcg@10,tail_ndcg@10,coverage@20

A file has the columns user_id, item_id, and score (higher is better) or rank (1 is best), under the original ids."""


def evaluate_command(arguments: Sequence[str]) -> int:
    """`distill evaluate`: prints tables, writes JSON where asked, and returns the exit code.

    Raises:
        UserError: The data or a file is missing, altered or unfit; see `read_recommendations`.
    """
    chosen = make_parser().parse_args(arguments)
    dataset = read_data(Path(chosen.data))
    metrics = [name.strip() for name in chosen.metrics.split(",") if name.strip()]
    if not metrics:
        raise UserError(f"--metrics is empty; expected names such as {', '.join(STANDARD[:3])}.")
    k = deepest(metrics)
    part = PARTS[chosen.part]
    cases = cases_of(dataset, part)
    evaluations: dict[str, Evaluation] = {}
    for path in map(Path, chosen.recommendations):
        name = path.stem if path.stem not in evaluations else str(path)
        evaluations[name] = evaluate(read_recommendations(path, dataset, cases, k, chosen.seen), cases, metrics)
    results = {name: measure(evaluation, k, chosen.resamples, chosen.seed) for name, evaluation in evaluations.items()}
    comparison = None
    if len(evaluations) > 1:
        tested = [metric for metric in metrics if metric in next(iter(evaluations.values())).per_user]
        comparison = compare(evaluations, tested, seed=chosen.seed) if tested else None
    report = {
        "data": {"fingerprint": dataset.fingerprint, "part": chosen.part, "users": len(cases), "items": cases.n_items},
        "protocol": {"ranking": "full catalogue", "seen_items": chosen.seen, "seed": chosen.seed},
        "split": {**check_split(dataset, part), "findings": split_report(dataset)["findings"]},
        "tails": describe_tails(cases),
        "results": results,
        "comparison": comparison.as_json() if comparison else None,
    }
    show_tails(cases)
    for name, result in results.items():
        show(name, result, cases)
    if comparison:
        console.print(comparison.table())
    if chosen.output:
        write_json(Path(chosen.output), plain(report))
        console.print(f"wrote {chosen.output}", markup=False)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="distill evaluate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recommendations", nargs="+", required=True, metavar="FILE", help="Parquet or CSV files")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="a prepared data set, such as runs/NAME/data")
    parser.add_argument(
        "--part", choices=("valid", "test"), default="test", help="what counts as a hit (default: test)"
    )
    parser.add_argument("--metrics", default=",".join(STANDARD), help="names such as ndcg@10, with commas between them")
    parser.add_argument(
        "--seen",
        choices=("error", "drop", "keep"),
        default="error",
        help="items that the user already had: refuse the file (default), drop them, or keep them as misses",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the intervals")
    parser.add_argument("--seed", type=int, default=0, help="seed of resamples and tests")
    parser.add_argument("--output", metavar="FILE", help="write everything as JSON")
    return parser


def read_data(folder: Path) -> Dataset:
    """Reads a prepared data set and checks that its files are what was written.

    Raises:
        UserError: The folder isn't one, or a file was altered.
    """
    if not (folder / "dataset.json").is_file():
        raise UserError(
            f"{folder} is not a prepared data set (no dataset.json in it). Make one with: distill prepare CONFIG"
        )
    if (folder / MANIFEST).is_file():
        open_stage(folder)
    dataset = Dataset.read(folder)
    written = json.loads((folder / "dataset.json").read_text())["fingerprint"]
    if written != dataset.fingerprint:
        raise UserError(
            f"{folder}: dataset.json says fingerprint {written[:12]}, its files have {dataset.fingerprint[:12]}: "
            "they were altered or mixed. Prepare the data again with: distill prepare CONFIG"
        )
    return dataset


def measure(evaluation: Evaluation, k: int, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Everything about one set of lists, as plain values.

    Args:
        evaluation: From `evaluate`.
        k: Cutoff of the segment tables (10 where the lists are that long).
        resamples: Resamples of the intervals.
        seed: Seed of the resamples.
    """
    judged = evaluation.judged
    if judged is None:
        raise UserError("This evaluation doesn't hold its lists, so it has no segments.")
    intervals = evaluation.intervals(resamples, seed)
    cutoff = min(k, 10)
    return {
        "metrics": {
            name: {
                "value": value,
                "low": intervals[name][0],
                "high": intervals[name][1],
                "users": evaluation.counts.get(name),
            }
            for name, value in evaluation.values.items()
        },
        "lists": list_leaks(judged.ranked, judged.cases),
        "effective_sample_size": truth_sample_size(judged),
        "segment_cutoff": cutoff,
        "segments": by_segment(judged.ranked, judged.cases, cutoff, resamples, seed),
        "three_by_three": three_by_three(judged.ranked, judged.cases, cutoff, resamples, seed),
    }


def show(name: str, result: Mapping[str, Any], cases: Cases) -> None:
    """Prints the metrics and the 3 x 3 table of one set of lists."""
    lists = result["lists"]
    odd = [
        f"{lists[key]:,} {key.replace('_', ' ')}" for key in ("seen_items", "empty_lists", "short_lists") if lists[key]
    ]
    title = f"{name}: {len(cases):,} users, {cases.n_items:,} items"
    table = make_table(title, "metric", "value", "95 % interval", "users")
    table.caption = ", ".join(odd) or None
    for metric, row in result["metrics"].items():
        users = f"{row['users']:,}" if row["users"] is not None else ""
        table.add_row(metric, f"{row['value']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", users)
    console.print(table)
    rows = result["three_by_three"]
    kinds = next(iter(rows.values()))
    cells = make_table(f"ndcg@{result['segment_cutoff']} by items and users", "", *(f"{kind} users" for kind in kinds))
    for items, row in rows.items():
        texts = [f"{c['ndcg']:.4f}\n{c['low']:.4f} to {c['high']:.4f}\n{c['users']:,} users" for c in row.values()]
        cells.add_row(f"{items} items", *texts, end_section=True)
    console.print(cells)


def show_tails(cases: Cases) -> None:
    """Prints both tail definitions with threshold, size and shares."""
    table = make_table("long tail", "items", "threshold", "size", "of interactions", "of targets", "users")
    for tail in describe_tails(cases).values():
        shares = [f"{tail[key]:.1%}" for key in ("share_of_interactions", "share_of_targets")]
        size = f"{tail['items']:,} ({tail['share_of_items']:.0%})"
        table.add_row(tail["rule"], f"<= {tail['threshold']:,}", size, *shares, f"{tail['users']:,}")
    console.print(table)


def make_table(title: str, first: str, *others: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def plain(value: Any) -> Any:
    """The value with nan as null: strict JSON has no nan."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    from distill.cli import guarded

    sys.exit(guarded(lambda: evaluate_command(sys.argv[1:])))
