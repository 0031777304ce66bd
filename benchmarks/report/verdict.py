"""The verdict in words: does the teacher deserve to be distilled, what was kept, what was gained, at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.report.shape import (
    LIVE,
    OVERALL,
    STUDENT,
    TAIL,
    TEACHER,
    TEACHER_ROWS,
    Report,
    as_interval,
    find_model,
    is_number,
    label,
    latency,
    metric,
    metric_title,
    served_model,
    shrinkage,
    speed_up,
    teacher_scenario,
)
from benchmarks.report.text import duration, number, p_value, percent, signed, signed_percent, size, times


def verdict(report: Report) -> str:
    """The report's first line: teacher gate, retention, gain, tail, speed and size, in words."""
    return " ".join(verdict_sentences(report))


def verdict_sentences(report: Report) -> list[str]:
    """The verdict, one sentence each; what was not measured is left out, the gate never is."""
    kept = [solved_sentence(report)] if report.get("closed_form") else [overall_sentence(report), tail_sentence(report)]
    parts = [gate_sentence(report), *kept, cost_sentence(report)]
    return [part for part in parts if part]


def gate_sentence(report: Report) -> str:
    """Whether the teacher beats every baseline. A failure is said in the very first words."""
    gate = report.get("teacher_gate")
    if not gate or "passed" not in gate:
        return "The teacher gate was not run: nothing here shows that this teacher is worth distilling."
    if gate.get("budget"):
        return full_gate_sentence(gate)
    teacher = metric(find_model(report, TEACHER), OVERALL)
    rival = label(gate["best_baseline"]) if gate.get("best_baseline") else "the best baseline"
    margin = f"{number(abs(gate['margin']))} " if is_number(gate.get("margin")) else ""
    proof = f" ({p_value(gate['p_value'])})" if is_number(gate.get("p_value")) else ""
    if not gate["passed"]:
        won = [name for name, wins in strata(gate).items() if wins]
        where = f" It wins only on these strata: {', '.join(won)}." if won else ""
        score = f"{metric_title(OVERALL)} is {margin}below {rival}'s{proof}"
        return f"The teacher does NOT pass the gate: its {score}, so it is not worth distilling as it is.{where}"
    own = f" with {metric_title(OVERALL)} {number(teacher)}" if teacher is not None else ""
    unproven = inside_noise(as_interval(gate.get("interval"))) or gate.get("significant") is False
    noise = ", a lead inside the noise" if unproven else ""
    return f"The teacher passes the gate{own}, {margin}above {rival}{proof}{noise}."


def full_gate_sentence(gate: Mapping[str, Any]) -> str:
    """The result of `distill gate`: tuned baselines, intervals, and the tail apart."""
    rival = worst(gate["baselines"], gate["best_baseline"])
    won, row = gate["passed"], gate["baselines"][rival]
    side = "above" if row["difference"] >= 0 else "below"
    lead = (
        f"{metric_title(OVERALL)} {number(gate['teacher'])} is {number(abs(row['difference']))} {side} {label(rival)}'s"
    )
    noise = "" if won or row["high"] < 0 else ", which is inside the noise"
    trials = gate["budget"]["trials"]
    tuned = f"each of the {len(gate['baselines'])} baselines tuned on validation in up to {trials} trials"
    first = f"The teacher {'passes' if won else 'does NOT pass'} the gate, {tuned}: its {lead}{difference(row)}{noise}."
    return f"{first} {tail_gate_sentence(gate)}".strip()


def tail_gate_sentence(gate: Mapping[str, Any]) -> str:
    """The gate on the tail; empty where no user has a tail item."""
    tail = gate.get("tail")
    if not tail:
        return ""
    rival = worst(tail["baselines"], tail["best_baseline"])
    row = tail["baselines"][rival]
    side = "above" if row["difference"] >= 0 else "below"
    noise = ", inside the noise" if row["low"] <= 0 <= row["high"] else ""
    return (
        f"On long-tail items its {metric_title(OVERALL)} {number(tail['teacher'])} is {number(abs(row['difference']))} "
        f"{side} {label(rival)}'s{difference(row)}{noise}."
    )


def worst(baselines: Mapping[str, Any], best: str) -> str:
    """The baseline to name: the best one, unless another is the one that the teacher's lead isn't proven against."""
    unproven = [name for name, row in baselines.items() if not row["low"] > 0]
    return best if best in unproven or not unproven else min(unproven, key=lambda name: baselines[name]["difference"])


def difference(row: Mapping[str, Any]) -> str:
    """The interval of a difference in brackets."""
    return f" (95% interval {signed(row['low'])} to {signed(row['high'])}, {p_value(row['p_value'])})"


def overall_sentence(report: Report) -> str:
    """Retention and gain over the same student trained without distillation."""
    kept = (report.get("distillation") or {}).get(OVERALL) or {}
    parts = []
    if is_number(kept.get("retention")):
        own, teacher = metric(find_model(report, STUDENT), OVERALL), metric(find_model(report, TEACHER), OVERALL)
        values = f" ({number(own)} of {number(teacher)})" if own is not None and teacher is not None else ""
        parts.append(f"keeps {percent(kept['retention'])} of the teacher's {metric_title(OVERALL)}{values}")
    if is_number(kept.get("gain")):
        parts.append(f"{gain_words(kept)} the same student trained without distillation{gain_evidence(kept)}")
    return f"The student {' and '.join(parts)}." if parts else ""


def solved_sentence(report: Report) -> str:
    """In place of retention and gain, for a student that no teacher taught."""
    own, teacher = metric(find_model(report, STUDENT), OVERALL), metric(find_model(report, TEACHER), OVERALL)
    values = f", {metric_title(OVERALL)} {number(own)} to the teacher's {number(teacher)}" if own is not None else ""
    return (
        f"The student is solved in closed form and learns from no teacher{values}; the undistilled student is the same "
        "model."
    )


def tail_sentence(report: Report) -> str:
    """The same on the long tail."""
    kept = (report.get("distillation") or {}).get(TAIL) or {}
    if not is_number(kept.get("gain")):
        return ""
    retention = (
        f"reaches {percent(kept['retention'])} of the teacher's {metric_title(OVERALL)} and "
        if is_number(kept.get("retention"))
        else ""
    )
    return f"On long-tail items it {retention}{gain_words(kept)} the undistilled student{gain_evidence(kept)}."


def cost_sentence(report: Report) -> str:
    """Speed and size of the file that would be served, against the teacher; it says which of the teacher's ways."""
    served, smaller = served_model(report), shrinkage(report)
    if served is None:
        return ""
    parts = []
    if latency(served) is not None:
        parts.append(f"answers in {duration(latency(served))} (p50, batch 1){against_teacher(report)}")
    if is_number(served.get("bytes")):
        against = f", {times(smaller)} smaller" if smaller and smaller > 1 else ""
        parts.append(f"takes {size(served['bytes'])}{against}")
    who = "It" if served["name"] == STUDENT else f"Exported as {served['name']}, it"
    return f"{who} {', and '.join(parts)}.{doubt(report)}" if parts else ""


def doubt(report: Report) -> str:
    """A sentence where the machine wasn't quiet while times were taken."""
    machine = report.get("machine") or {}
    if machine.get("reliable", True):
        return ""
    load = percent(machine.get("background_load"), 0)
    return f" Others kept {load} of the machine busy meanwhile, so the times are unreliable."


def against_teacher(report: Report) -> str:
    """How much faster, in words; with a live encoder both of the teacher's rows are named."""
    factor, cached = speed_up(report), speed_up(report, "batch_1")
    if not factor:
        return ""
    teacher = find_model(report, TEACHER)
    if teacher_scenario(report) != LIVE:
        return f", {faster(factor)} than the teacher"
    live = duration(latency(teacher, scenario=LIVE))
    text = f", {faster(factor)} than the teacher with the {TEACHER_ROWS[LIVE]} ({live})"
    return text + (f" and {faster(cached)} than with its {TEACHER_ROWS['batch_1']}" if cached else "")


def gain_words(kept: Mapping[str, Any]) -> str:
    """ "gains +4.2% over", "loses 3.1% to"; a gain whose interval holds 0 is called noise."""
    gain, ends = kept["gain"], as_interval(kept.get("gain_interval"))
    if inside_noise(ends):
        return f"differs by {signed_percent(gain)}, which is inside the noise, from"
    return f"gains {signed_percent(gain)} over" if gain >= 0 else f"loses {percent(-gain)} to"


def gain_evidence(kept: Mapping[str, Any]) -> str:
    """The interval of a gain in brackets, or its p-value where there is none."""
    ends = as_interval(kept.get("gain_interval"))
    if ends:
        return f" (95% interval {signed_percent(ends[0])} to {signed_percent(ends[1])})"
    return f" ({p_value(kept['p_value'])})" if is_number(kept.get("p_value")) else ""


def inside_noise(ends: tuple[float, float] | None) -> bool:
    """Whether an interval of a difference holds 0; without an interval nothing can be said, so False."""
    return ends is not None and ends[0] <= 0 <= ends[1]


def faster(factor: float) -> str:
    """ "2,340× faster", or "1.5× slower" where it is."""
    return f"{times(factor)} faster" if factor >= 1 else f"{times(1 / factor)} slower"


def strata(gate: Mapping[str, Any]) -> dict[str, bool | None]:
    """Which strata the teacher wins, by name; None where the gate doesn't say.

    A stratum may be a plain yes or no, or a dict with "passed" or "margin".
    """
    found: dict[str, bool | None] = {}
    for name, value in (gate.get("strata") or {}).items():
        if isinstance(value, Mapping):
            wins = value.get("passed", value["margin"] > 0 if is_number(value.get("margin")) else None)
        else:
            wins = value if isinstance(value, bool) else None
        found[str(name)] = wins
    return found
