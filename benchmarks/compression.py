"""Stored forms by data set: `python -m benchmarks.compression runs/quickstart runs/ml100k_minilm`, as Markdown.

Each form of each run's finished student is written, loaded, and ranked with on validation and test; shares are those of
the torch student on the same users. The forms take turns in the timing: single histories, top 10, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.latency import measure_interleaved
from distill.ask import contexts_of, row_scorer
from distill.data.contexts import ContextBatch
from distill.data.dataset import TEST, VALID, Dataset
from distill.export.bundle import write_model
from distill.export.calibration import calibration_histories
from distill.export.gate import noise, overlap
from distill.export.graph import build_graph, trace
from distill.export.variants import file_name, parse
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import Evaluation, evaluate, rank
from distill.serving.session import Graph
from students.checkpoint import load_student
from students.protocol import Student
from students.protocol import scores as student_scores

FORMS = "fp32,fp16,int8,int8+dynamic,int8+static,int4,pq,pruned,kmeans,low_rank,int8@32,int4@32"
METRICS = ("ndcg@10", "tail_ndcg@10", "coverage@10", "tail_coverage@10")
JUDGED = METRICS[:2]  # of users, whose differences say what chance does
K, BATCH, HISTORIES = 10, 256, 200


@dataclass(frozen=True)
class Part:
    """One part of the split with torch's lists.

    Attributes:
        cases: Who is ranked for.
        ranked: Torch's lists (U, 10).
        torch: What they are worth.
    """

    cases: Cases
    ranked: np.ndarray
    torch: Evaluation


def main() -> None:
    """Prints a table for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--variants", default=FORMS)
    parser.add_argument("--max-length", type=int, default=50)
    parser.add_argument(
        "--calibration", type=int, default=4096, help="train histories that roundings are calibrated by"
    )
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--users", type=int, default=5000, help="at most so many of each part")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for run in chosen.runs:
        words = [word.strip() for word in chosen.variants.split(",")]
        print(f"\n{run.name}\n")
        print("\n".join(markdown(measure(run, words, chosen))))


def measure(run: Path, words: Sequence[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one run's table."""
    dataset = Dataset.read(run / "data")
    student = cast(Student, load_student(run / "student"))
    parts = {
        name: torch_part(student, dataset, part, chosen.max_length, chosen.users)
        for name, part in (("validation", VALID), ("test", TEST))
    }
    histories = calibration_histories(dataset, chosen.calibration, chosen.max_length)
    traced = trace(student, chosen.max_length, histories)
    graphs, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for word in words:
            path = Path(folder) / file_name(word)
            write_model(build_graph(parse(word, traced.dim), traced), path)
            sizes[word] = path.stat().st_size
            graphs[word] = Graph(path.read_bytes(), dataset.n_items)
    times = measure_interleaved(
        calls(graphs, parts["test"].cases, chosen.max_length), dict.fromkeys(words, chosen.calls)
    )
    rows = []
    for word, graph in graphs.items():
        kept = {name: compare(graph, part, chosen.max_length) for name, part in parts.items()}
        rows.append({"word": word, "bytes": sizes[word], "p50": times[word]["p50"], **kept})
    return rows


def torch_part(student: Student, dataset: Dataset, part: int, max_length: int, users: int) -> Part:
    """Torch's lists for at most `users` cases of a part, evenly spread."""
    cases = cases_of(dataset, part)
    if len(cases) > users:
        cases = cases.take(np.linspace(0, len(cases) - 1, users).astype(np.int64))

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(student, torch.from_numpy(batch.history))

    with torch.no_grad():
        ranked = rank(row_scorer(score, cases, max_length), cases, K, batch_size=BATCH)
    return Part(cases, ranked, evaluate(ranked, cases, METRICS))


def compare(graph: Graph, part: Part, max_length: int) -> dict[str, float]:
    """Shares of torch's metrics that a file keeps, two standard errors of those of ndcg ("± ndcg@10"), the overlap."""
    contexts = contexts_of(part.cases)
    lists = []
    for start in range(0, len(part.cases), BATCH):
        batch = contexts.batch(np.arange(start, min(start + BATCH, len(part.cases))), max_length)
        lists.append(graph.top(batch.history, batch.seen, K)[0])
    ids = np.concatenate(lists)
    found = evaluate(ids, part.cases, METRICS)
    before = part.torch.values
    shares = {name: found.values[name] / before[name] if before[name] else 1.0 for name in METRICS}
    paired = {name: [np.nan_to_num(each.per_user[name]) for each in (found, part.torch)] for name in JUDGED}
    noises = {f"± {name}": noise(*values) for name, values in paired.items()}
    return {**shares, **noises, "overlap": overlap(ids, part.ranked)}


def calls(graphs: Mapping[str, Graph], cases: Cases, max_length: int) -> dict[str, Callable[[int], Any]]:
    """A call a form: the top 10 of one test history."""
    contexts = contexts_of(cases)
    few = [contexts.batch(np.array([row]), max_length) for row in range(min(HISTORIES, len(cases)))]
    return {
        word: lambda i, graph=graph: graph.top(few[i % len(few)].history, few[i % len(few)].seen, K)  # type: ignore[misc]
        for word, graph in graphs.items()
    }


def markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; validation / test in one cell."""
    columns = {"ndcg@10": 2, "± ndcg@10": 2, "tail_ndcg@10": 1, "± tail_ndcg@10": 1}
    columns |= {"coverage@10": 1, "tail_coverage@10": 1}
    names = [*("±" if name.startswith("±") else name for name in columns), "overlap@10"]
    lines = [
        f"| form | bytes | share | {' | '.join(names)} | p50 ms |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for row in rows:
        cells = [
            " / ".join(f"{100 * row[part][key]:.{digits}f}" for part in ("validation", "test"))
            for key, digits in columns.items()
        ]
        cells.append(" / ".join(f"{row[part]['overlap']:.4f}" for part in ("validation", "test")))
        share = row["bytes"] / rows[0]["bytes"]
        lines.append(f"| {row['word']} | {row['bytes']:,} | {share:.1%} | {' | '.join(cells)} | {row['p50']:.3f} |")
    return lines


if __name__ == "__main__":
    main()
