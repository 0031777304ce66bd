"""Candidates of `distill compress`: what each costs and keeps, which of them are on the front, and the pick."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from distill.runs import write_json

RESULT, TABLE = "compress.json", "compress.csv"
SAME_TIME = 1.1  # latencies closer than this are taken as equal: they are measured, and noise is of that size


@dataclass(frozen=True)
class Candidate:
    """One exported file, measured on validation.

    Attributes:
        word: The variant, such as "int8@32".
        dim: Dimensions of the student that it was made from (others than the run's own were trained again).
        bytes: Of the file.
        p50: Median milliseconds of one history's top 10, one thread.
        ndcg, tail_ndcg: Of the file, on validation.
        retention, tail_retention: The same over those of the run's own student in torch.
        tail_noise: Two standard errors of tail_retention.
        overlap: Mean overlap of the top 10 with the run's own student.
        finetuned: Whether it was trained with its compressed table.
    """

    word: str
    dim: int
    bytes: int
    p50: float
    ndcg: float
    tail_ndcg: float
    retention: float
    tail_retention: float
    tail_noise: float
    overlap: float
    finetuned: bool = False

    @property
    def key(self) -> str:
        """Name that tells it from all other candidates."""
        return f"{self.word} of {self.dim}" + (" finetuned" if self.finetuned else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other one beats, smallest first: no larger, no slower, no worse, and better in something."""
    kept = [c for c in candidates if not any(beats(other, c) for other in candidates)]
    return sorted(kept, key=lambda c: (c.bytes, -c.ndcg))


def beats(one: Candidate, other: Candidate) -> bool:
    """Whether `one` is at least as good in bytes, p50, ndcg and tail ndcg, and better in one of them but p50."""
    no_worse = (
        one.bytes <= other.bytes
        and one.p50 <= SAME_TIME * other.p50
        and one.ndcg >= other.ndcg
        and one.tail_ndcg >= other.tail_ndcg
    )
    return no_worse and (one.bytes, -one.ndcg, -one.tail_ndcg) != (other.bytes, -other.ndcg, -other.tail_ndcg)


def pick(
    candidates: Sequence[Candidate], budget: float, min_retention: float, min_tail_retention: float
) -> Candidate | None:
    """The smallest candidate that keeps enough within the budget; None where there is none.

    Args:
        candidates: All of them.
        budget: Largest file, in bytes.
        min_retention: Least share of the student's ndcg@10.
        min_tail_retention: The same for tail_ndcg@10, within two standard errors, as in the parity gate.
    """
    good = [
        c
        for c in candidates
        if c.bytes <= budget and c.retention >= min_retention and c.tail_retention + c.tail_noise >= min_tail_retention
    ]
    return min(good, key=lambda c: (c.bytes, -c.ndcg), default=None)


def read_results(folder: Path, inputs: dict[str, Any]) -> dict[str, Candidate]:
    """Candidates that were measured before on the same inputs and whose files are still there, by key."""
    path = folder / RESULT
    if not path.is_file():
        return {}
    about = json.loads(path.read_text(encoding="utf-8"))
    if about.get("inputs") != inputs:
        return {}
    fields = {field.name for field in dataclasses.fields(Candidate)}
    found = [Candidate(**{k: v for k, v in row.items() if k in fields}) for row in about["candidates"]]
    return {candidate.key: candidate for candidate in found}


def write_results(folder: Path, inputs: dict[str, Any], found: Sequence[Candidate], best: Candidate | None) -> None:
    """Writes compress.json and compress.csv."""
    first = {candidate.key for candidate in front(found)}
    marks = [{"front": c.key in first, "picked": best is not None and c.key == best.key} for c in found]
    rows = [{**c.as_json(), **mark} for c, mark in zip(found, marks, strict=True)]
    write_json(folder / RESULT, {"inputs": inputs, "candidates": rows})
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary = folder / f"{TABLE}.tmp"
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text.getvalue())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / TABLE)


def table(found: Sequence[Candidate], best: Candidate | None) -> Table:
    """All candidates, smallest first; those on the front are marked, and so is the pick."""
    first = {candidate.key for candidate in front(found)}
    shown = Table(title="validation ndcg@10; * on the Pareto front, > the pick")
    for name in ("", "variant", "MB", "p50 ms", "ndcg", "kept", "tail", "kept", "overlap"):
        shown.add_column(name, justify="left" if name in ("", "variant") else "right", no_wrap=True)
    widest = max((c.dim for c in found), default=0)
    for c in sorted(found, key=lambda c: (c.bytes, -c.ndcg)):
        mark = (">" if best is not None and c.key == best.key else "") + ("*" if c.key in first else "")
        figures = (f"{c.bytes / 1e6:.3f}", f"{c.p50:.3f}", f"{c.ndcg:.4f}", f"{c.retention:.1%}")
        tail = (f"{c.tail_ndcg:.4f}", f"{c.tail_retention:.1%}", f"{c.overlap:.3f}")
        label = c.key.replace(f" of {widest}", "")
        shown.add_row(mark, label, *figures, *tail, style="bold" if ">" in mark else "" if mark else "dim")
    return shown
