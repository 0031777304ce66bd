"""Head, mid and tail items × user activity: one small table a model, coloured by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.html import Html, tag
from benchmarks.report.shape import (
    CONTROL,
    OVERALL,
    STUDENT,
    TEACHER,
    Report,
    find_model,
    is_number,
    label,
    metric_title,
)
from benchmarks.report.style import GAIN, HEAT, blend
from benchmarks.report.text import count, number, signed

Cells = dict[tuple[str, str], Mapping[str, Any]]
NAMES = {"low": "low activity", "mid": "mid activity", "high": "high activity"}
NAMES |= {name: f"{name} users" for name in ("light", "medium", "heavy")}


def heat_maps(report: Report) -> list[Html]:
    """A heat map for each of teacher, student and undistilled student, and one for the gain from distillation.

    All three share one colour scale, so that equal colours are equal numbers.
    """
    found = {name: cells for name in (TEACHER, STUDENT, CONTROL) if (cells := segment_cells(report, name))}
    if not found:
        return []
    top = max((c[OVERALL] for cells in found.values() for c in cells.values()), default=0.0) or 1.0
    maps = [_heat_map(label(name), cells, top) for name, cells in found.items()]
    if STUDENT in found and CONTROL in found:
        maps.append(_gain_map(found[STUDENT], found[CONTROL]))
    return maps


def segment_cells(report: Report, name: str) -> Cells:
    """The cells of a model by (item segment, user segment).

    Read from rows with "item", "user" and "ndcg@10" (nested 3×3 or one flat list), or from the table[item][user] of
    `distill.ranking.segments.three_by_three`. Cells where nobody takes part are left out.
    """
    segments = (find_model(report, name) or {}).get("segments") or []
    if isinstance(segments, Mapping):
        segments = segments.get("item × user") or []
    if isinstance(segments, Mapping):
        cells = {(i, u): {OVERALL: c.get("ndcg"), **c} for i, row in segments.items() for u, c in row.items()}
    else:
        rows = [c for row in segments for c in (row if isinstance(row, list | tuple) else [row])]
        cells = {(str(c["item"]), str(c["user"])): c for c in rows}
    return {key: c for key, c in cells.items() if is_number(c.get(OVERALL))}


def _heat_map(title: str, cells: Cells, top: float) -> Html:
    def show(c: Mapping[str, Any]) -> tuple[str, ...]:
        ends = (
            f"{number(c['low'], 3)}–{number(c['high'], 3)}"
            if is_number(c.get("low")) and is_number(c.get("high"))
            else ""
        )
        users = f"{count(c['users'])} users" if is_number(c.get("users")) else ""
        return blend(HEAT, c[OVERALL] / top), number(c[OVERALL], 3), ends, users

    return _grid(f"{title}: {metric_title(OVERALL)}", {key: show(c) for key, c in cells.items()})


def _gain_map(student: Cells, control: Cells) -> Html:
    gains = {key: c[OVERALL] - control[key][OVERALL] for key, c in student.items() if key in control}
    top = max((abs(gain) for gain in gains.values()), default=0.0) or 1.0
    shown = {
        key: (blend(GAIN, (gain / top + 1) / 2), signed(gain, 3), _relative(gain, control[key][OVERALL]))
        for key, gain in gains.items()
    }
    return _grid("Student minus undistilled student", shown)


def _relative(gain: float, base: float) -> str:
    return f"{signed(100 * gain / base, 0)}%" if base else ""


def _grid(caption: str, shown: Mapping[tuple[str, str], Sequence[str]]) -> Html:
    """A table of (background, value, small print, …) by (item, user)."""
    items, users = (list(dict.fromkeys(key[side] for key in shown)) for side in (0, 1))
    head = tag("tr", tag("td"), [tag("th", NAMES.get(user, user), scope="col") for user in users])
    rows = [
        tag("tr", tag("th", item, scope="row"), [_cell(shown.get((item, user))) for user in users]) for item in items
    ]
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", rows), class_="heat")


def _cell(shown: Sequence[str] | None) -> Html:
    if shown is None:
        return tag("td", "–")
    background, value, *small = shown
    return tag(
        "td",
        tag("b", value),
        tag("small", [tag("span", part) for part in small if part]),
        style=f"background:{background}",
    )
