"""The figures of an ablation's cells, and the table over all of them."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from distill.ask import row_scorer
from distill.config import Config
from distill.data.contexts import ContextBatch
from distill.data.dataset import TEST, Dataset
from distill.progress import console
from distill.ranking.cases import cases_of
from distill.ranking.comparison import compare, label
from distill.ranking.evaluator import Evaluation, evaluate, rank
from distill.ranking.significance import paired
from distill.runs import write_json
from students.checkpoint import load_student
from students.protocol import scores as student_scores

BASE = "text_init_only"
COMPARED = ("ndcg@10", "tail_ndcg@10")


def measure(config: Config, folder: Path, max_length: int, metrics: Sequence[str]) -> dict[str, Any]:
    """Figures of a trained student on the test part: values, and a value a user of the two compared metrics."""
    dataset = Dataset.read(config.folder / "data")
    cases = cases_of(dataset, TEST)
    student: Any = load_student(folder)

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(student, torch.from_numpy(batch.history), torch.from_numpy(batch.user))

    evaluation = evaluate(rank(row_scorer(score, cases, max_length), cases, 10), cases, list(metrics))
    return {"values": evaluation.values, "per_user": {m: _plain(evaluation.per_user[m]) for m in COMPARED}}


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 6) for v in values]


def write_tables(
    place: Path,
    results: Sequence[dict[str, Any]],
    students: Sequence[str],
    rows: Sequence[str],
    failed: dict[str, str],
    command: str,
) -> None:
    """Writes <place>.md, .csv and .json, and prints the table.

    Gains are relative to the row text_init_only of the same student over the seeds that both have; intervals and p
    values draw users and seeds anew; letters name the rows of the same student that a row beats (Holm-adjusted).
    """
    lines = [line for student in students for line in lines_of(results, student, rows)]
    write_json(place.with_suffix(".json"), {"command": command, "rows": lines, "failed": failed})
    place.with_suffix(".md").write_text(markdown(lines, failed, command), encoding="utf-8")
    place.with_suffix(".csv").write_text(as_csv(lines), encoding="utf-8")
    console.print(as_rich(lines))


def lines_of(results: Sequence[dict[str, Any]], student: str, rows: Sequence[str]) -> list[dict[str, Any]]:
    """One line a row of a student, in the order of `rows`."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        if result["student"] == student:
            found[result["row"]][result["offset"]] = result
    present = [row for row in rows if row in found]
    letters = letters_of({row: list(found[row].values()) for row in present})
    lines = []
    for number, row in enumerate(present):
        seeds = found[row]
        line: dict[str, Any] = {
            "student": student,
            "letter": label(number),
            "row": row,
            "seeds": len(seeds),
            "seconds": float(np.mean([r["seconds"] for r in seeds.values()])),
            "validation": float(np.mean([r["validation"] for r in seeds.values()])),
            "beats": letters.get(row, {}),
        }
        for metric in ("ndcg@10", "recall@10", "tail_ndcg@10", "tail_coverage@10", "coverage@10"):
            values = [r["values"][metric] for r in seeds.values()]
            line[metric] = float(np.mean(values))
            line[f"{metric} sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        base = found.get(BASE, {})
        shared = sorted(set(seeds) & set(base))
        for metric in COMPARED:
            line[f"{metric} gain"] = gain([seeds[s] for s in shared], [base[s] for s in shared], metric)
        lines.append(line)
    return lines


def gain(ours: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], metric: str) -> dict[str, float] | None:
    """Relative gain over the base row with its 95 % interval and p value; None without a shared seed."""
    if not ours or ours is base:
        return None
    one, two = (np.stack([users(r, metric) for r in group]) for group in (ours, base))
    mean = float(np.nanmean(two))
    if not mean:
        return None
    test = paired(one, two)
    return {"gain": test.difference / mean, "low": test.low / mean, "high": test.high / mean, "p": test.p_value}


def users(result: dict[str, Any], metric: str) -> np.ndarray:
    """A value a user, nan where the user doesn't count."""
    return np.array([np.nan if v is None else v for v in result["per_user"][metric]], np.float64)


def letters_of(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """By row and metric, the letters of the rows that it beats."""
    if len(runs) < 2:
        return {}
    evaluations = {
        row: [Evaluation({m: users(r, m) for m in COMPARED}, r["values"]) for r in seeds] for row, seeds in runs.items()
    }
    comparison = compare(evaluations, COMPARED)
    return {row: {metric: comparison.letters(i, m) for m, metric in enumerate(COMPARED)} for i, row in enumerate(runs)}


def cells(line: dict[str, Any]) -> list[str]:
    """A line as the texts of its columns."""
    out = [line["student"], line["letter"], line["row"], str(line["seeds"]), f"{line['validation']:.4f}"]
    for metric in COMPARED:
        sd = line[f"{metric} sd"]
        spread = f" ± {sd:.4f}" if sd is not None else ""
        beats = line["beats"].get(metric, "")
        out.append(f"{line[metric]:.4f}{spread}{' ' + beats if beats else ''}")
    out.append(f"{line['tail_coverage@10']:.3f}")
    for metric in COMPARED:
        found = line[f"{metric} gain"]
        same = line["row"] == BASE or found is None
        gain_text, low, high = ("" if same else f"{100 * found[part]:+.1f}" for part in ("gain", "low", "high"))
        out.append("" if same else f"{gain_text} ({low}..{high})")
    return [*out, f"{line['seconds']:.0f}"]


HEADERS = (
    "student", "", "row", "seeds", "validation ndcg@10", "ndcg@10", "tail ndcg@10", "tail coverage@10", "gain %",
    "tail gain %", "s",
)  # fmt: skip


def markdown(lines: Sequence[dict[str, Any]], failed: dict[str, str], command: str) -> str:
    """The table in Markdown, with what failed below it."""
    out = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    out += ["| " + " | ".join(cells(line)) + " |" for line in lines]
    out += [
        "",
        "Mean over seeds ± their standard deviation, test part, full catalogue. Letters after a value: rows of the "
        "same student that it beats (sign-flip test over users, Holm-adjusted p <= .05). Gains are over "
        "text_init_only, with 95 % intervals over users and seeds.",
        "",
        f"Regenerate: `{command}`",
    ]
    if failed:
        out += ["", "Failed:", ""] + [f"- {name}: {why}" for name, why in failed.items()]
    return "\n".join(out) + "\n"


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """The table as CSV, plain numbers."""
    out = io.StringIO()
    names = ["student", "row", "seeds", "seconds", "validation", "ndcg@10", "ndcg@10 sd", "recall@10", "tail_ndcg@10"]
    names += ["tail_ndcg@10 sd", "coverage@10", "tail_coverage@10"]
    extra = [f"{m} gain {part}" for m in COMPARED for part in ("gain", "low", "high", "p")]
    writer = csv.writer(out)
    writer.writerow([*names, *extra])
    for line in lines:
        gains = [(line[f"{m} gain"] or {}).get(part) for m in COMPARED for part in ("gain", "low", "high", "p")]
        writer.writerow([*(line[name] for name in names), *gains])
    return out.getvalue()


def as_rich(lines: Sequence[dict[str, Any]]) -> Table:
    """The main columns for a terminal; the files have all of them."""
    table = Table(caption=f"gains over {BASE} with 95 % intervals; all columns in the .md and .csv")
    for header in ("student", "row", "ndcg@10", "tail ndcg@10", "gain %", "tail gain %"):
        table.add_column(header, overflow="fold", justify="left" if header in ("student", "row") else "right")
    for line in lines:
        shown = cells(line)
        table.add_row(
            line["student"], line["row"], f"{line['ndcg@10']:.4f}", f"{line['tail_ndcg@10']:.4f}", *shown[8:10]
        )
    return table
