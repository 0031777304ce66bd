"""What the student lost and gained against the teacher, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.html import Html, data_table, section, tag
from benchmarks.report.shape import Report
from benchmarks.report.text import count, signed

HEADER = ("Item", "Train events", "Chosen by", "Teacher hits", "Student hits", "Change")


def change_section(report: Report) -> Html | None:
    """The items with the largest losses and gains, side by side."""
    changes = report.get("item_changes") or {}
    tables = [
        data_table(title, HEADER, change_rows(changes.get(side) or []), class_="wrapped")
        for side, title in (("lost", "Lost most"), ("gained", "Gained most"))
        if changes.get(side)
    ]
    if not tables:
        return None
    return section(
        "changes", "What the student lost and gained", tag("div", tables, class_="pairs"), note=change_words(changes)
    )


def change_words(changes: Mapping[str, Any]) -> str:
    """How hits moved over all items, in words."""
    found = changes.get("summary") or {}
    return (
        "A hit is a test user who chose the item and finds it in the top 10. "
        f"Over all items the teacher has {count(found.get('teacher_hits'))} hits and the student "
        f"{count(found.get('student_hits'))}: fewer for {count(found.get('items_that_lost'))} items, more for "
        f"{count(found.get('items_that_gained'))}."
    )


def change_rows(items: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row an item: title, popularity, who chose it, hits of both, change."""
    return [
        [
            str(item["title"]),
            *(count(item[key]) for key in ("popularity", "chosen", "teacher_hits", "student_hits")),
            signed(item["student_hits"] - item["teacher_hits"], 0),
        ]
        for item in items
    ]
