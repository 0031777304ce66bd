"""Tables of the comparison with other libraries, in Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.peers.student_settings import FAMILIES

FIGURES = ["ndcg@10", "recall@10", "tail_ndcg@10", "coverage@10"]


def write(found: Sequence[Mapping[str, Any]], budget: Mapping[str, Any], output: Path | None) -> None:
    """Prints the Markdown table and, with an output, writes it beside CSV and JSON.

    Args:
        found: A row a model and data set.
        budget: What every model was allowed.
        output: Path without an ending. Rows that an earlier run wrote there stay, but for those of the same model and
            data.
    """
    found = [*earlier(found, output), *found]
    lines = markdown(found)
    print("\n".join(lines))
    if output and found:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"budget": budget, "rows": list(found)}, indent=2)
        output.with_suffix(".json").write_text(text + "\n")
        flat = [{**row, "settings": json.dumps(row["settings"])} for row in found]
        pl.DataFrame(flat).write_csv(output.with_suffix(".csv"))
        output.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


def earlier(found: Sequence[Mapping[str, Any]], output: Path | None) -> list[Mapping[str, Any]]:
    """Rows of the JSON at `output` that aren't measured anew in `found`."""
    kept = output.with_suffix(".json") if output else None
    if kept is None or not kept.is_file():
        return []
    anew = {(row["data"], row["library"], row["model"]) for row in found}
    rows = json.loads(kept.read_text())["rows"]
    return [row for row in rows if (row["data"], row["library"], row["model"]) not in anew]


def markdown(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two tables a data set: all models by ndcg@10, and each student against the best peer of its family."""
    lines: list[str] = []
    for data in dict.fromkeys(row["data"] for row in found):
        mine = sorted((row for row in found if row["data"] == data), key=lambda row: -row["ndcg@10"])
        lines += [
            f"## {data}",
            "",
            "| model | trials | limit, s | validation | " + " | ".join(FIGURES) + " | 95 % of ndcg@10 | seconds |",
        ]
        lines += ["|---|" + "---:|" * (len(FIGURES) + 5)]
        for row in mine:
            cells = [str(row["trials"]), f"{row['limit']:.0f}"]
            cells += [f"{row[figure]:.4f}" for figure in ("validation", *FIGURES)]
            cells += [f"{row['low']:.4f} to {row['high']:.4f}", f"{row['seconds']:.0f}"]
            lines.append(f"| {row['library']} `{row['model']}` | {' | '.join(cells)} |")
        lines += ["", "| student | ndcg@10 | best peer | its ndcg@10 | ours / theirs |", "|---|---:|---|---:|---:|"]
        for student, peer in versus(mine):
            ratio = student["ndcg@10"] / peer["ndcg@10"]
            lines.append(
                f"| `{student['model']}` | {student['ndcg@10']:.4f} | {peer['library']} `{peer['model']}` "
                f"| {peer['ndcg@10']:.4f} | {ratio:.3f} |"
            )
        lines.append("")
    return lines


def versus(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each student with the best peer of its family by test ndcg@10, which favours the peers."""
    pairs = []
    for student in (row for row in rows if row["library"] == "taildistill"):
        family = FAMILIES[student["model"]]
        peers = [row for row in rows if row["library"] != "taildistill" and row["model"] in family]
        if peers:
            pairs.append((student, max(peers, key=lambda row: row["ndcg@10"])))
    return pairs
