"""The benchmark report: one dict in, the same numbers out as JSON, HTML, Markdown, CSV and LaTeX.

The dict is what `report.json` holds; docs/report.md describes its keys. Only "models" is needed, everything else is
shown where it is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.markdown import to_markdown
from benchmarks.report.page import to_html
from benchmarks.report.shape import Report, check_report
from benchmarks.report.tables import terminal_table, to_csv, to_latex
from benchmarks.report.verdict import verdict
from distill.runs import write_json

__all__ = ["terminal_table", "to_csv", "to_html", "to_latex", "to_markdown", "verdict", "write_report"]


def write_report(report: Report, folder: Path) -> None:
    """Writes report.json, report.html, report.md, report.csv and report.tex, each of them whole or not at all.

    Args:
        report: The shape of docs/report.md. A missing "verdict" is added to report.json; nan and infinity become null.
        folder: Made where it isn't there.

    Raises:
        UserError: The dict is not a report: it has no models, or a model lacks its name, role or metrics.
    """
    check_report(report)
    plain = _finite({"verdict": verdict(report), **report})
    texts = {"html": to_html(plain), "md": to_markdown(plain), "csv": to_csv(plain), "tex": to_latex(plain)}
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        _write_text(folder / f"report.{suffix}", text)
    write_json(folder / "report.json", plain)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _finite(value: Any) -> Any:
    """The value with None in place of nan and infinities, which JSON doesn't have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
