"""What `distill gate` writes beside its JSON: a Markdown page, a CSV, a picture, and a table for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from benchmarks.report.markdown import escape, table
from benchmarks.report.shape import label
from benchmarks.report.style import INK, MUTED, mark
from benchmarks.report.svg import chart, to_svg
from benchmarks.report.text import number, seconds, signed
from benchmarks.report.verdict import gate_sentence

Gate = Mapping[str, Any]
SHOWN = ("ndcg@10", "recall@10", "tail_ndcg@10", "coverage@10", "tail_coverage@10")


def gate_markdown(gate: Gate) -> str:
    """gate.md: the verdict, figures of all models, leads by stratum, and how each baseline was tuned."""
    names = list(gate["baselines"])
    metrics = [[_code(n), *(number(gate["metrics"][n].get(m)) for m in SHOWN)] for n in ("teacher", *names)]
    strata = list(next(iter(gate["by_stratum"].values()), {}))
    rows = []
    for name in names:
        cells = [_lead(gate["baselines"][name]), _lead(((gate.get("tail") or {}).get("baselines") or {}).get(name))]
        rows.append([_code(name), *cells, *(_lead(gate["by_stratum"][name].get(stratum)) for stratum in strata)])
    tuned = [
        [
            _code(name),
            str(t["trials"]),
            seconds(t["seconds"]),
            number(t["validation"]),
            escape(_settings(t["settings"])),
        ]
        for name, t in gate["tuned"].items()
    ]
    ranges = {name: t["ranges"] for name, t in gate["tuned"].items() if t["ranges"]}
    searched = [
        [_code(name), escape("; ".join(f"{k}: {v}" for k, v in found.items()))] for name, found in ranges.items()
    ]
    budget = gate["budget"]
    limit = f", at most {budget['seconds']:g} s each" if budget["seconds"] else ""
    parts = [
        f"# The teacher gate: {escape(gate['title'])}",
        escape(gate_sentence({"models": [], "teacher_gate": gate})),
        f"Rule: {escape(gate['rule'])}. Budget: {budget['trials']} trials{limit}; models that are trained get a third.",
        "## Test part\n\n" + table(["Model", *(escape(m) for m in SHOWN)], metrics),
        "## Lead of the teacher\n\n" + table(["Over", "overall", "tail", *(escape(s) for s in strata)], rows, "---"),
        "Difference in ndcg@10 (tail: tail_ndcg@10) with its 95 % interval over users; bold where it lies above 0.",
        "## Tuning on validation\n\n" + table(["Model", "Trials", "Time", "ndcg@10", "Best settings"], tuned, "---"),
        table(["Model", "Ranges searched"], searched, "---") if searched else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def gate_csv(gate: Gate) -> str:
    """gate.csv: a row for each baseline and stratum ("overall" and "tail" first)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["baseline", "stratum", "teacher", "baseline_value", "difference", "low", "high", "p_value", "users"]
    )
    keys = ("difference", "low", "high", "p_value", "users")
    for name, whole in gate["baselines"].items():
        writer.writerow([name, "overall", gate["teacher"], whole["mean"], *(whole[key] for key in keys)])
        tail = gate.get("tail")
        if tail:
            row = tail["baselines"][name]
            writer.writerow([name, "tail", tail["teacher"], row["mean"], *(row[key] for key in keys)])
        for stratum, row in gate["by_stratum"][name].items():
            writer.writerow([name, stratum, row["teacher"], row["baseline"], *(row[key] for key in keys)])
    return out.getvalue()


def gate_picture(gate: Gate) -> str:
    """gate.svg: the lead over each baseline with its interval, overall and on the tail."""
    names, tail = list(gate["baselines"]), (gate.get("tail") or {}).get("baselines")
    sides = [("overall", gate["baselines"], mark("teacher"), 0.12 if tail else 0.0)]
    sides += [("tail", tail, mark("control"), -0.12)] if tail else []
    with chart(560, 70 + 42 * len(names), (150, 46, 24, 26)) as (figure, axes):
        heights = np.arange(len(names))[::-1]
        for title, rows, look, shift in sides:
            middle = np.array([rows[name]["difference"] for name in names])
            ends = np.abs(np.array([[rows[name]["low"], rows[name]["high"]] for name in names]).T - middle)
            style: dict[str, Any] = {"fmt": look.marker, "color": look.colour, "capsize": 3, "label": title}
            axes.errorbar(middle, heights + shift, xerr=ends, **style)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(heights, [label(name) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlabel("teacher's lead in NDCG@10, 95 % interval over users")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False, fontsize=10, labelcolor=MUTED)
        words = "The teacher's lead over each tuned baseline with its interval. " + gate_sentence(
            {"models": [], "teacher_gate": gate}
        )
        return to_svg(figure, "gate", words).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def gate_table(gate: Gate) -> Table:
    """For the terminal: each model's figures on the test part, the lead over it, and how it was tuned."""
    found = Table(title=gate["title"], caption="lead: 95 % interval over users", box=box.SIMPLE_HEAD, show_edge=False)
    found.add_column("model", overflow="fold")
    for title in ("ndcg@10", "lead", "tail", "lead on the tail", "trials"):
        found.add_column(title, justify="right")
    tail = gate.get("tail") or {"baselines": {}}
    for name in ("teacher", *gate["baselines"]):
        values, tuned = gate["metrics"][name], gate["tuned"].get(name, {})
        leads = [_lead(gate["baselines"].get(name), ""), _lead(tail["baselines"].get(name), "")]
        cells = [number(values["ndcg@10"]), leads[0], number(values.get("tail_ndcg@10")), leads[1]]
        found.add_row(label(name), *cells, str(tuned.get("trials", "")))
    return found


def _lead(row: Mapping[str, Any] | None, strong: str = "**") -> str:
    """ "+0.0123 (+0.0045 to +0.0201)", emphasised where the whole interval is above 0."""
    if not row or row.get("difference") is None or not np.isfinite(row["difference"]):
        return ""
    text = f"{signed(row['difference'])} ({signed(row['low'])} to {signed(row['high'])})"
    return f"{strong}{text}{strong}" if row["low"] > 0 else text


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.removeprefix('fit.')} {v:g}" for k, v in settings.items()) or "none"


def _code(name: str) -> str:
    return f"`{name}`"
