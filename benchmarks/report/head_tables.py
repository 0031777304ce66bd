"""How well the student's further heads predict test events, beside the mean and the bias model."""

from __future__ import annotations

from benchmarks.report.html import Html, data_table, section
from benchmarks.report.shape import Report
from benchmarks.report.text import count

TITLE = "Further heads of the student"
HEADER = ("Head", "Predictor", "Events", "MAE", "RMSE", "Log loss", "AUC")
FIGURES = ("mae", "rmse", "log_loss", "auc")
NOTE = (
    "On all events of the test part. The bias model is the mean plus damped deviations of item and user; a head that "
    "is no better than it has learned nothing from the vectors."
)


def head_section(report: Report) -> Html | None:
    """A row for each head and predictor; None without heads."""
    rows = head_rows(report)
    return section("heads", TITLE, data_table("Errors on test events", HEADER, rows), note=NOTE) if rows else None


def head_rows(report: Report) -> list[list[str]]:
    """Head, predictor, events, and the figures that its kind has."""
    return [
        [head, predictor.replace("_", " "), count(found["events"]), *(_figure(errors.get(name)) for name in FIGURES)]
        for head, found in (report.get("heads") or {}).items()
        for predictor, errors in found.items()
        if predictor != "events"
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
