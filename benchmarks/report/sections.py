"""The upper sections of the page: verdict, figures, tables and charts. None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report import plots
from benchmarks.report.heatmaps import heat_maps
from benchmarks.report.html import (
    Child,
    Html,
    code,
    data_table,
    facts,
    record_table,
    scroll_box,
    section,
    tag,
    wide_caption,
)
from benchmarks.report.shape import (
    OVERALL,
    STUDENT,
    TAIL,
    TEACHER,
    TEACHER_ROWS,
    Model,
    Report,
    as_interval,
    find_model,
    interval,
    is_number,
    label,
    labels,
    latency,
    metric,
    metric_title,
    ordered_models,
    served_model,
    shrinkage,
    speed_up,
    teacher_scenario,
)
from benchmarks.report.tables import Column, best_rows, columns
from benchmarks.report.text import MISSING, duration, number, p_value, percent, signed_percent, size, times
from benchmarks.report.verdict import inside_noise, verdict_sentences


def verdict_section(report: Report) -> Html:
    """The verdict in words, in a box whose colour repeats how the teacher gate ended."""
    gate = report.get("teacher_gate") or {}
    state = ("passed" if gate["passed"] else "failed") if "passed" in gate else "unknown"
    sentences = [tag("p", sentence) for sentence in verdict_sentences(report)]
    heading = tag("h2", "Verdict", id="verdict-title", class_="hidden")
    return tag(
        "section", heading, sentences, id="verdict", aria_labelledby="verdict-title", class_=f"verdict verdict-{state}"
    )


def key_figures(report: Report) -> Html:
    """Five cards: retention, gain, tail gain, speed-up and size."""
    overall, tail = ((report.get("distillation") or {}).get(name) or {} for name in (OVERALL, TAIL))
    teacher, served = find_model(report, TEACHER) or {}, served_model(report) or {}
    own, goal = metric(find_model(report, STUDENT), OVERALL), metric(teacher, OVERALL)
    factor, smaller = speed_up(report), shrinkage(report)
    kept = f"{metric_title(OVERALL)} {number(own)} of the teacher's {number(goal)}"
    way = teacher_scenario(report)
    timing = (
        f"{duration(latency(served))} against the teacher's {duration(latency(teacher, scenario=way))}, "
        f"{TEACHER_ROWS[way]} (p50, batch 1)"
    )
    sizes = f"{times(smaller)} smaller than the teacher's {size(teacher.get('bytes'))}" if smaller else ""
    cards = [
        _card("Retention", percent(overall.get("retention")), kept),
        _gain_card("Gain from distillation", overall),
        _gain_card("Gain on the long tail", tail),
        _card("Speed-up", times(factor), timing, "good" if factor and factor > 1 else "bad"),
        _card("Size", size(served.get("bytes")), sizes),
    ]
    measured = factor or is_number(served.get("bytes"))
    note = f"Speed and size are those of {served['name']}." if measured else None
    return section("figures", "Key figures", tag("dl", cards, class_="cards"), note=note)


def model_table(report: Report) -> Html:
    """The main table: intervals under the numbers, the best of each column marked, rows grouped by role."""
    models, wanted = ordered_models(report), columns(report)
    best = [best_rows(column, models) for column in wanted]
    head = tag("tr", tag("th", "Model", scope="col"), [tag("th", c.title, scope="col") for c in wanted])
    rows = []
    for row, (model, name) in enumerate(zip(models, labels(report), strict=True)):
        group = row > 0 and models[row - 1]["role"] != model["role"]
        cells = [_value_cell(model, column, row in best[i]) for i, column in enumerate(wanted)]
        exact = code(model["name"]) if model["name"] not in (name, name.lower()) else None
        title = [name, exact, tag("small", model["role"]) if model["role"] != model["name"] else None]
        rows.append(
            tag(
                "tr",
                tag("th", title, scope="row", data_value=name),
                cells,
                class_=f"role-{model['role']}" + (" group" if group else ""),
                data_model=model["name"],
            )
        )
    low = [c.title for c in wanted if c.low]
    caption = (
        "Small print: 95% interval over users. Green: best of its column as printed. "
        + (f"Lower is better for {', '.join(low)}. " if low else "")
        + ("p50 and p99 are latencies of one request at a time." if any(c.key == "p50" for c in wanted) else "")
    )
    table = tag("table", wide_caption(caption), tag("thead", head), tag("tbody", rows), class_="models")
    return section("models", "Models", scroll_box("Models compared", table))


def distillation_section(report: Report) -> Html | None:
    """What distillation kept and gained, metric by metric."""
    rows: list[list[Child]] = []
    for name, kept in (report.get("distillation") or {}).items():
        ends = as_interval(kept.get("gain_interval"))
        extent = f"{signed_percent(ends[0])} to {signed_percent(ends[1])}" if ends else None
        verdict = "inside the noise" if inside_noise(ends) else None
        gain = [
            signed_percent(kept.get("gain")),
            tag("small", [extent, ", " if verdict else "", verdict]) if extent else None,
        ]
        closed = percent(kept["gap_closed"]) if is_number(kept.get("gap_closed")) else tag("small", "not reported")
        rows.append([metric_title(name), percent(kept.get("retention")), gain, p_value(kept.get("p_value")), closed])
    if not rows:
        return None
    header = ["Metric", "Retention", "Gain", "Significance of the gain", "Gap closed"]
    note = (
        "Retention is student over teacher. Gain is relative to the same student, with the same text vectors and "
        "budget, trained without distillation. Gap closed is reported only where the teacher's lead over that student "
        "is significant."
    )
    return section(
        "distillation",
        "What distillation gave",
        data_table("Student against the teacher and the undistilled student", header, rows),
        note=note,
    )


def gate_section(report: Report) -> Html | None:
    """The teacher gate by stratum, and what the teacher is made of."""
    gate = report.get("teacher_gate") or {}
    weights = (report.get("teacher") or {}).get("weights") or {}
    if not gate and not weights:
        return None
    ends = as_interval(gate.get("interval"))
    pairs: list[tuple[str, Child]] = []
    if gate:
        pairs += [
            ("Gate", "passed" if gate.get("passed") else "NOT passed"),
            ("Best baseline", label(gate.get("best_baseline") or "–")),
            (
                "Lead over it",
                number(gate.get("margin")) + (f" ({number(ends[0])} to {number(ends[1])})" if ends else ""),
            ),
            ("Significance", p_value(gate.get("p_value"))),
        ]
    if gate.get("budget"):
        pairs.append(("Tuning", f"up to {gate['budget']['trials']} trials a baseline, on validation"))
    pairs += [(f"Weight of {name}", number(value, 2)) for name, value in weights.items()]
    baselines = record_table("Teacher against each baseline", "Baseline", gate.get("baselines") or {})
    tail = record_table("Teacher against each baseline on the tail", "Baseline", tail_rows(gate))
    strata = record_table("Teacher gate by stratum", "Stratum", gate.get("strata") or {})
    note = "A teacher is worth distilling only if it beats every baseline on held-out users."
    return section("gate", "Teacher gate", facts(pairs), baselines, tail, strata, note=note)


def tail_rows(gate: Mapping[str, Any]) -> Mapping[str, Any]:
    """By baseline, the teacher's lead on long-tail items; empty where `distill gate` wasn't run."""
    return (gate.get("tail") or {}).get("baselines") or {}


def plot_section(report: Report) -> Html | None:
    """Trade-offs and the exposure curve."""
    exposure = plots.exposure(report)
    charts = [*plots.trade_offs(report), *([exposure] if exposure else [])]
    return section("plots", "Trade-offs", tag("div", [_figure(c) for c in charts], class_="charts")) if charts else None


def segment_section(report: Report) -> Html | None:
    """Heat maps of item segment by user activity."""
    maps = heat_maps(report)
    note = (
        "Items by popularity, users by number of training interactions. "
        "The models share one colour scale, so equal colours are equal numbers."
    )
    return (
        section("segments", "Head, mid and tail", tag("div", [tag("div", m) for m in maps], class_="heats"), note=note)
        if maps
        else None
    )


def curve_section(report: Report) -> Html | None:
    """Training curves."""
    charts = plots.training_curves(report)
    return (
        section("curves", "Training curves", tag("div", [_figure(c) for c in charts], class_="charts"))
        if charts
        else None
    )


def _card(title: str, value: str, note: str, state: str = "") -> Html:
    if value == MISSING:
        note, state = "not measured", ""
    cells = [tag("dt", title), tag("dd", value, class_="value"), tag("dd", note)]
    return tag("div", cells, class_=f"card {state}".strip())


def _gain_card(title: str, kept: Mapping[str, Any]) -> Html:
    """Green for a proven gain, red for a proven loss, grey for anything inside the noise; the note says it in words."""
    gain, ends = kept.get("gain"), as_interval(kept.get("gain_interval"))
    if not is_number(gain):
        return _card(title, MISSING, "")
    extent = f"{signed_percent(ends[0])} to {signed_percent(ends[1])}" if ends else p_value(kept.get("p_value"))
    if inside_noise(ends):
        return _card(title, signed_percent(gain), f"inside the noise: {extent}")
    return _card(title, signed_percent(gain), f"over the undistilled student: {extent}", "good" if gain > 0 else "bad")


def _value_cell(model: Model, column: Column, best: bool) -> Html:
    value, ends = column.value(model), interval(model, column.key)
    small = tag("small", f"{number(ends[0])}–{number(ends[1])}") if ends and value is not None else None
    mark = tag("span", " (best)", class_="hidden") if best else None
    return tag(
        "td",
        column.show(value),
        mark,
        small,
        class_="best" if best else None,
        data_value=None if value is None else repr(value),
    )


def _figure(chart: plots.Chart) -> Html:
    return tag("figure", tag("h3", chart.title), Html(chart.svg), tag("figcaption", chart.note))
