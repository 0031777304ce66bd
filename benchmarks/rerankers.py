"""What rerankers bring: each reranking member of a finished teacher beside its retriever, on test users.

    distill train-teacher configs/amazon_office_rerankers.yaml data.path=../shared/data/amazon-office
    python -m benchmarks.rerankers runs/amazon_office_rerankers --users 300

Weights and forms stay as validation chose them. For a member with a rating head also mae and rmse on test ratings,
beside the train mean and user and item biases. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.ask import quality, sample
from distill.data.dataset import TEST, Dataset
from distill.plugins import resolve
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import Evaluation
from distill.ranking.significance import paired
from teachers.multi_task import rating_figures
from teachers.rerank import FILE

METRICS = ("ndcg@10", "recall@10", "tail_ndcg@10")


def judged(member: Any, cases: Cases) -> tuple[Evaluation, float]:
    """The member's figures on some cases, and the contexts that it answers in a second."""
    begin = time.perf_counter()
    found = quality(member.score, cases, METRICS, batch_size=32)
    return found, len(cases) / max(time.perf_counter() - begin, 1e-9)


def row(name: str, member: Any, cases: Cases, base: Evaluation | None) -> tuple[dict[str, Any], Evaluation]:
    """One line of the table; `base` is the retriever's evaluation on the same cases."""
    found, speed = judged(member, cases)
    line: dict[str, Any] = {"model": name, **{metric: round(found.values[metric], 4) for metric in METRICS}}
    line["contexts_per_second"] = round(speed, 2)
    if base is not None:
        gap = paired(found.per_user["ndcg@10"], base.per_user["ndcg@10"])
        line |= {"gain": round(gap.difference, 4), "low": round(gap.low, 4), "high": round(gap.high, 4)}
    return line, found


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the run, asks its rerankers and their retrievers, prints the table."""
    parser = argparse.ArgumentParser(description="Rerankers of a finished teacher beside their retrievers.")
    parser.add_argument("run", type=Path, help="a run with the stages data and teacher")
    parser.add_argument("--users", type=int, default=300, help="test users, drawn by seed (default 300)")
    parser.add_argument("--ratings", type=int, default=2000, help="test ratings, drawn by seed (default 2000)")
    parser.add_argument("--members", nargs="*", default=[], help="only these members")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    dataset = Dataset.read(given.run / "data")
    cases = sample(cases_of(dataset, TEST), given.seed, given.users)
    lines: list[dict[str, Any]] = []
    known: dict[str, Evaluation] = {}
    for place in sorted((given.run / "teacher").glob(f"*/{FILE}")):
        folder, name = place.parent, place.parent.name
        if given.members and name not in given.members:
            continue
        about = json.loads((folder / "member.json").read_text())
        member = resolve("teacher", about["name"])(**about["arguments"]).load(folder)
        label = member.first.label
        if label not in known:
            line, known[label] = row(label, member.first.member, cases, None)
            lines.append(line)
        line, _ = row(name, member, cases, known[label])
        lines.append(line | {"weight": member.used})
        if getattr(member, "base", None) is not None:
            parts = (member.predict_ratings, member.base, dataset, TEST, given.seed, given.ratings)
            lines.append({"model": f"{name}: ratings", **rating_figures(*parts)})
    table = Table(title=f"{given.run}: {len(cases)} test users")
    columns = list(dict.fromkeys(key for line in lines for key in line))
    for column in columns:
        table.add_column(column)
    for line in lines:
        table.add_row(*(f"{line[c]:.4g}" if isinstance(line.get(c), float) else str(line.get(c, "")) for c in columns))
    Console(width=200).print(table)
    print(json.dumps({"run": str(given.run), "users": len(cases), "seed": given.seed, "rows": lines}, default=float))


if __name__ == "__main__":
    main()
