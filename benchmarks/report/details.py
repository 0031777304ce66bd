"""The lower sections of the page: examples, export gate, data, settings, environment, command. None where empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmarks.report.html import Child, Html, data_table, facts, record_table, section, tag
from benchmarks.report.shape import (
    Report,
    example_lists,
    export_figures,
    find_model,
    is_number,
    label,
    tail_definitions,
)
from benchmarks.report.text import anything, percent, phrase, seconds


def example_section(report: Report) -> Html | None:
    """Recommendations of teacher, student and undistilled student for a few users, side by side."""
    examples = report.get("examples") or []
    note = "What the user really chose next is marked ✓."
    folded = [_example(report, example, place == 0) for place, example in enumerate(examples)]
    return section("examples", "Recommendations side by side", folded, note=note) if examples else None


def export_section(report: Report) -> Html | None:
    """The parity gate of the exported files."""
    table = record_table("Exported files against the torch student", "Variant", export_figures(report))
    note = "Each exported file must rank like the torch student before it may be served."
    return section("export", "Export gate", table, note=note) if table else None


def data_section(report: Report) -> Html | None:
    """The data card: sizes, split, fingerprint, tails, the transfer set and what preparation found."""
    data = report.get("data") or {}
    if not data:
        return None
    plain = {key: value for key, value in data.items() if key not in ("tail", "summary", "fingerprint")}
    pairs: list[tuple[str, Child]] = [(phrase(key), anything(key, value)) for key, value in plain.items()]
    users, items, events = (data.get(key) for key in ("users", "items", "interactions"))
    if is_number(users) and is_number(items) and is_number(events) and users and items:
        pairs.append(("Density", percent(events / users / items, 2)))
    if data.get("fingerprint"):
        pairs.append(("Fingerprint", tag("code", str(data["fingerprint"]))))
    kinds = (report.get("transfer_set") or {}).get("kinds") or {}
    tails = record_table("Two definitions of the long tail", "Tail", tail_definitions(report))
    transfer = record_table("What the teacher was asked: contexts of the transfer set", "Kind", kinds)
    return section("data", "Data card", facts(pairs), tails, transfer, _preparation(data.get("summary") or {}))


def _preparation(summary: Mapping[str, Any]) -> Html | None:
    rows = [[str(step), anything(step, found)] for step, found in summary.items()]
    table = data_table("What preparation found and did", ["Step", "Found"], rows, class_="wrapped")
    return tag("details", tag("summary", "Preparation, step by step"), table, class_="example") if rows else None


def settings_section(report: Report) -> Html | None:
    """The settings, folded away."""
    settings = report.get("settings")
    if not settings:
        return None
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    listing = tag("pre", tag("code", text), tabindex="0", role="region", aria_label="Settings as YAML")
    return section("settings", "Settings", tag("details", tag("summary", "All settings of this run"), listing))


def environment_section(report: Report) -> Html | None:
    """Machine, package versions and the time of each stage."""
    about, stages = report.get("environment") or {}, report.get("stages") or {}
    if not about and not stages:
        return None
    longest = max((v for v in stages.values() if is_number(v)), default=0) or 1
    rows = [
        [str(name), [seconds(v), tag("span", class_="bar", style=f"width:{_share(v, longest):.0f}%")]]
        for name, v in stages.items()
    ]
    table = data_table("Time of each stage", ["Stage", "Time"], rows) if rows else None
    return section(
        "environment",
        "Environment",
        facts((str(k), anything(k, v)) for k, v in about.items()) if about else None,
        table,
    )


def command_section(report: Report) -> Html | None:
    """The command that makes this report again."""
    command = report.get("command")
    listing = tag("pre", tag("code", command), tabindex="0", role="region", aria_label="Command")
    return section("command", "Make it again", listing) if command else None


def _example(report: Report, example: Mapping[str, Any], unfolded: bool) -> Html:
    truth = set(example.get("truth") or ())
    lists = example_lists(example)
    roles = {name: (find_model(report, name) or {}).get("role", "") for name in lists}
    blocks = [tag("div", tag("h4", label(n)), _titles(lists[n], truth), class_=f"role-{roles[n]}") for n in lists]
    activity = f", {example['activity']} activity" if example.get("activity") else ""
    hits = ", ".join(f"{label(n)} {sum(title in truth for title in lists[n])}" for n in lists)
    return tag(
        "details",
        tag(
            "summary",
            tag("h3", f"User {example.get('user')}{activity}"),
            tag("span", f"Hits: {hits}") if truth else None,
        ),
        tag(
            "div",
            _sentence("History", example.get("history") or ()),
            _sentence("Chose next", example.get("truth") or ()),
            tag("div", blocks, class_="lists"),
        ),
        class_="example",
        open=unfolded,
    )


def _sentence(name: str, titles: Sequence[str]) -> Html | None:
    return tag("p", tag("b", f"{name}: "), " · ".join(str(t) for t in titles), class_="history") if titles else None


def _titles(titles: Sequence[str], truth: set[str]) -> Html:
    hit = tag("span", " ✓", tag("span", " chosen", class_="hidden"))
    return tag("ol", [tag("li", tag("span", t, hit, class_="hit") if t in truth else str(t)) for t in titles])


def _share(value: Any, longest: float) -> float:
    return 100 * value / longest if is_number(value) else 0.0
