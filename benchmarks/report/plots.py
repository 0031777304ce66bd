"""The charts of the report. Each returns None where the report has nothing to draw."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.report.drawing import Line, along, draw_lines, merge, write_labels
from benchmarks.report.shape import (
    CONTROL,
    LIVE,
    OVERALL,
    STUDENT,
    TEACHER,
    Model,
    Report,
    find_model,
    interval,
    is_number,
    label,
    labels,
    latency,
    metric,
    metric_title,
    ordered_models,
)
from benchmarks.report.style import MUTED, NEUTRAL, mark
from benchmarks.report.svg import chart, to_svg
from benchmarks.report.text import duration, size

TAIL_COVERAGE = "tail_coverage@10"
MAX_CURVES = 8


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its heading, a line on how to read it, and the `<svg>` element."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot; `across` and `up` are the intervals of x and y."""

    label: str
    role: str
    x: float
    y: float
    across: tuple[float, float] | None
    up: tuple[float, float] | None


def trade_offs(report: Report) -> list[Chart]:
    """Accuracy against tail coverage, latency and size."""
    accuracy = metric_title(OVERALL)
    bars = "Bars are 95% intervals over users; the grey line joins the models that no other beats on both axes."
    drawn = [
        _scatter(
            "coverage",
            f"{accuracy} against tail coverage",
            f"Up is more accurate, right brings a larger share of the tail items to someone's list. {bars}",
            _points(report, lambda m: metric(m, TAIL_COVERAGE), TAIL_COVERAGE),
            metric_title(TAIL_COVERAGE),
            lambda value: f"{100 * value:.0f}%",
        ),
        _scatter(
            "latency",
            f"{accuracy} against latency",
            "Up is more accurate, left is faster. One request at a time, median; logarithmic axis. "
            f"A live teacher reads the texts of the history. {bars}",
            [*_points(report, latency), *_live_teacher(report)],
            "Latency of one request, p50",
            duration,
            log=True,
        ),
        _scatter(
            "bytes",
            f"{accuracy} against size",
            f"Up is more accurate, left is smaller; logarithmic axis. {bars}",
            _points(report, lambda m: m["bytes"] if is_number(m.get("bytes")) else None),
            "Size on disk",
            size,
            log=True,
        ),
    ]
    return [c for c in drawn if c]


def exposure(report: Report) -> Chart | None:
    """Cumulative share of all recommendations over items from most to least popular (a concentration curve)."""
    lines = []
    for name, shares in _main_curves(report.get("exposure")).items():
        y = np.asarray([v for v in shares or () if is_number(v)], float)
        if len(y) < 2:
            continue
        # The first value is the share of the single most popular item, so the curve rises steeply from nothing to it.
        x = np.concatenate([[0.0], np.linspace(0, 1, len(y))])
        lines.append(Line(label(name), _role(report, name), x, np.concatenate([[0.0], y])))
    if not lines:
        return None
    tail = (((report.get("data") or {}).get("tail") or {}).get("headline") or {}).get("share_of_items")
    with chart() as (figure, axes):
        axes.set(xlim=(0, 1), ylim=(0, 1.12), yticks=np.linspace(0, 1, 6))  # room for labels above 100 %
        axes.set(xlabel="Items, most popular first", ylabel="Share of all recommendations")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
        axes.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=0.8, linestyle=(0, (2, 3)))
        guides = [((0.0, 1.0), (0.0, 1.0))]
        if is_number(tail):
            axes.axvline(1 - tail, color="#8a93a3", linewidth=0.8)
            guides.append(((1 - tail, 1 - tail), (0.0, 1.0)))
            axes.text(1 - tail + 0.015, 0.02, "long tail →", color=MUTED, fontsize=11, va="bottom")
        draw_lines(figure, axes, lines, guides)
        svg = to_svg(
            figure,
            "exposure",
            _describe_lines("Long-tail exposure, share of recommendations on the 10% most popular items", lines, 0.1),
        )
    note = (
        "The sooner a curve reaches the top, the more a model repeats the most popular items; "
        "the dotted diagonal is perfectly even."
    )
    return Chart("Long-tail exposure", note, svg)


def training_curves(report: Report) -> list[Chart]:
    """Validation accuracy and training loss by epoch, or by step where no epoch was logged."""
    curves = _main_curves(report.get("curves"))
    axis = "epoch" if all(is_number(row.get("epoch")) for rows in curves.values() for row in rows) else "step"
    accuracy = "Measured on validation users while training."
    loss = "Losses of different objectives are not on one scale: read each curve for itself."
    wanted = (
        # A student's own log calls the validation metric "validation".
        ("accuracy", (OVERALL, "validation"), f"Validation {metric_title(OVERALL)}", accuracy),
        ("loss", ("loss",), "Training loss", loss),
    )
    charts = []
    for identity, keys, title, note in wanted:
        lines = []
        for name, rows in curves.items():
            pairs = [(row.get(axis), next((row[key] for key in keys if key in row), None)) for row in rows]
            drawn = sorted(pair for pair in pairs if all(is_number(value) for value in pair))
            if len(drawn) > 1:
                x, y = np.asarray(drawn, float).T
                lines.append(Line(label(name), _role(report, name), x, y))
        if not lines:
            continue
        with chart(height=270) as (figure, axes):
            axes.set(xlabel=axis.capitalize(), ylabel=title)
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
            draw_lines(figure, axes, lines)
            svg = to_svg(figure, f"curve-{identity}", _describe_lines(title, lines))
        charts.append(Chart(title, note, svg))
    return charts


def _main_curves(curves: Mapping[str, Sequence[Any]] | None) -> dict[str, Sequence[Any]]:
    """The curves that a chart can hold and still be read: teacher, student and undistilled student, then the others."""
    filled = {name: values for name, values in (curves or {}).items() if values}
    first = [name for name in (TEACHER, STUDENT, CONTROL) if name in filled]
    names = [*first, *(name for name in filled if name not in first)][:MAX_CURVES]
    return {name: filled[name] for name in names}


def _points(report: Report, x: Callable[[Model], float | None], x_metric: str = "") -> list[Point]:
    found = []
    for model, name in zip(ordered_models(report), labels(report), strict=True):
        place, accuracy = x(model), metric(model, OVERALL)
        if place is not None and accuracy is not None:
            across = interval(model, x_metric) if x_metric else None
            found.append(Point(name, model["role"], place, accuracy, across, interval(model, OVERALL)))
    return found


def _live_teacher(report: Report) -> list[Point]:
    """The teacher once more, where its language model was also timed on the texts themselves."""
    teacher = find_model(report, TEACHER)
    place, accuracy = latency(teacher, scenario=LIVE), metric(teacher, OVERALL)
    if place is None or accuracy is None:
        return []
    return [Point(f"{label(TEACHER)}, live", TEACHER, place, accuracy, None, interval(teacher, OVERALL))]


def _scatter(
    name: str,
    title: str,
    note: str,
    points: Sequence[Point],
    x_title: str,
    show: Callable[[float], str],
    log: bool = False,
) -> Chart | None:
    usable = [p for p in points if not log or p.x > 0]
    points = in_view(usable)
    if not points:
        return None
    below = [f"{p.label} ({p.y:.4f} at {show(p.x)})" for p in usable if p not in points]
    note += f" Below the chart: {', '.join(below)}." if below else ""
    with chart() as (figure, axes):
        if log:
            axes.set_xscale("log")
        axes.set(xlabel=x_title, ylabel=metric_title(OVERALL))
        for point in points:
            _draw_point(axes, point)
        _set_limits(axes, points, log)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+(?= |%|$)", "", show(value))))
        front = pareto(points, log)
        axes.plot([p.x for p in front], [p.y for p in front], color="#b8c0cc", linewidth=1.2, zorder=1)
        names, places = merge([p.label for p in points], axes.transData.transform([(p.x, p.y) for p in points]))
        strokes = [((p.x, p.x), p.up) for p in points if p.up] + [(p.across, (p.y, p.y)) for p in points if p.across]
        # The front is faint, so a label may rather lie on it than on a bar: fewer points stand for it.
        faint = [along(axes, (a.x, b.x), (a.y, b.y))[::3] for a, b in pairwise(front)]
        obstacles = np.concatenate([places, *(along(axes, *stroke) for stroke in strokes), *faint])
        write_labels(figure, axes, names, [place[None] for place in places], obstacles)
        values = "; ".join(f"{p.label}: {p.y:.4f} at {show(p.x)}" for p in usable)
        svg = to_svg(figure, name, f"{title}. {values}.")
    return Chart(title, note, svg)


def in_view(points: Sequence[Point]) -> list[Point]:
    """The points worth the chart's height: one with less than half of the best accuracy would squeeze the others."""
    best = max((p.y for p in points), default=0.0)
    near = [p for p in points if p.y >= best / 2]
    return near if len(near) > 1 else list(points)


def pareto(points: Sequence[Point], lower_x: bool) -> list[Point]:
    """The points that no other point beats on both axes, from left to right; a higher y is always better."""
    ordered = sorted(points, key=lambda p: (p.x if lower_x else -p.x, -p.y))
    front: list[Point] = []
    for point in ordered:
        if not front or point.y > front[-1].y:
            front.append(point)
    return sorted(front, key=lambda p: p.x)


def _draw_point(axes: Axes, point: Point) -> None:
    look = mark(point.role)
    for ends, vertical in ((point.up, True), (point.across, False)):
        if ends:
            x, y = ((point.x, point.x), ends) if vertical else (ends, (point.y, point.y))
            axes.plot(x, y, color=look.colour, linewidth=1.1, alpha=0.55, zorder=2)
    face = "white" if look.hollow else look.colour
    axes.plot(
        [point.x],
        [point.y],
        look.marker,
        color=look.colour,
        markerfacecolor=face,
        markeredgewidth=1.6,
        markersize=7,
        zorder=3,
    )


def _set_limits(axes: Axes, points: Sequence[Point], log: bool) -> None:
    """Room for labels on all sides; accuracy never starts below zero."""
    x = np.array([v for p in points for v in (p.x, *(p.across or ()))], float)
    y = np.array([v for p in points for v in (p.y, *(p.up or ()))], float)
    rise = np.ptp(y) or 0.1
    axes.set_ylim(max(y.min() - 0.1 * rise, -0.04 * rise), y.max() + 0.1 * rise)
    if log:
        low, high = np.log10(x.min()), np.log10(x.max())
        room = max(0.14 * (high - low), 0.25)
        axes.set_xlim(10 ** (low - room), 10 ** (high + room))
        wide = high - low > 1.3
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.12 * (np.ptp(x) or 0.1)
        axes.set_xlim(x.min() - room, x.max() + room)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _describe_lines(title: str, lines: Sequence[Line], at: float | None = None) -> str:
    """A chart in words: each curve's ends, or its height at one place."""
    ends = {line.label: f"from {line.y[0]:.4f} to {line.y[-1]:.4f}" for line in lines}
    heights = {line.label: f"{np.interp(at, line.x, line.y):.0%}" for line in lines} if at is not None else ends
    return f"{title}. {'; '.join(f'{name}: {height}' for name, height in heights.items())}."


def _role(report: Report, name: str) -> str:
    return (find_model(report, name) or {}).get("role", "")
