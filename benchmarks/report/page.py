"""The whole page: one self-contained HTML file that is readable without scripts and loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib

from benchmarks.report import details, sections
from benchmarks.report.assets import SCRIPT, STYLE
from benchmarks.report.changes import change_section
from benchmarks.report.head_tables import head_section
from benchmarks.report.html import Html, tag
from benchmarks.report.shape import Report, arranged, is_number
from benchmarks.report.speed import speed_section
from benchmarks.report.text import count
from benchmarks.report.verdict import verdict

# In the order of the page: id, name in the navigation, builder.
SECTIONS = (
    ("figures", "Key figures", sections.key_figures),
    ("models", "Models", sections.model_table),
    ("distillation", "Distillation", sections.distillation_section),
    ("gate", "Teacher gate", sections.gate_section),
    ("plots", "Trade-offs", sections.plot_section),
    ("speed", "Speed", speed_section),
    ("segments", "Segments", sections.segment_section),
    ("changes", "Items", change_section),
    ("heads", "Heads", head_section),
    ("examples", "Examples", details.example_section),
    ("export", "Export", details.export_section),
    ("curves", "Training", sections.curve_section),
    ("data", "Data", details.data_section),
    ("settings", "Settings", details.settings_section),
    ("environment", "Environment", details.environment_section),
    ("command", "Command", details.command_section),
)


def to_html(report: Report) -> str:
    """The report as one HTML file with inline style and charts.

    A content security policy forbids everything but the inline style and the one script, known by its hash, so that no
    title in the data can make the page load or run anything.
    """
    report = arranged(report)
    title = str(report.get("title") or "Benchmark report")
    built = [(identity, name, html) for identity, name, builder in SECTIONS if (html := builder(report)) is not None]
    links = [tag("li", tag("a", name, href=f"#{identity}")) for identity, name, _ in built]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="description", content=verdict(report)),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    top = tag(
        "header",
        tag(
            "div",
            tag("p", "TailDistill benchmark", class_="brand"),
            tag("h1", title),
            tag("p", _about(report), class_="about"),
            tag("nav", tag("ul", links), class_="sections", aria_label="Sections"),
            class_="wide",
        ),
        class_="top",
    )
    main = tag("main", sections.verdict_section(report), [html for *_, html in built], id="main", class_="wide")
    footer = tag("footer", tag("p", "Every number of this page, in full, is in report.json beside it.", class_="wide"))
    skip = tag("a", "Skip to the verdict", href="#main", class_="skip")
    body = tag("body", skip, top, main, footer, tag("script", Html(SCRIPT)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'", "base-uri 'none'")
    return "; ".join((*rules, "form-action 'none'"))


def _about(report: Report) -> str:
    data = report.get("data") or {}
    sizes = [f"{count(data[key])} {key}" for key in ("users", "items", "interactions") if is_number(data.get(key))]
    return " · ".join(str(part) for part in (data.get("name"), *sizes, data.get("split")) if part)
