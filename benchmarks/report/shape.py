"""What a report holds: names, order and labels of its models, and the look-ups that every format needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from distill.errors import UserError

Report = Mapping[str, Any]
Model = Mapping[str, Any]

TEACHER = "teacher"
STUDENT = "student"
CONTROL = "student_without_distillation"
LIVE = "live_history"  # the teacher's language model reads the texts of the history within the call
TEACHER_ROWS = {
    "batch_1": "item vectors cached",
    LIVE: "texts of the history encoded live",
    "live_catalogue": "texts of the whole catalogue encoded live",
}
OVERALL = "ndcg@10"
TAIL = "tail_ndcg@10"

HEADLINE = (OVERALL, "recall@10", TAIL, "tail_recall@10", "coverage@10", "tail_coverage@10", "gini@10")
ROLES = ("teacher", "student", "export", "control", "baseline")
# What people want to read first in the records of a report; other keys follow in the order in which they are.
READING_ORDER = (
    *("python", "platform", "processors", "torch", "transformers", "fp32", "int8"),
    *("data", "name", "split", "interactions", "headline", "bottom_80"),
    *("head items", "mid items", "tail items", "light users", "medium users", "heavy users"),
    *("passed", "teacher", "baseline", "mean", "difference", "low", "high", "p_value", "p_adjusted", "effect_size"),
    *("scores", CONTROL, STUDENT, "export"),
    *("threshold", "items", "share_of_items", "share_of_interactions", "share_of_targets", "unseen", "users"),
)
LABELS = {
    TEACHER: "Teacher",
    STUDENT: "Student",
    CONTROL: "Undistilled student",
    "popularity": "Popularity",
    "itemknn": "ItemKNN",
    "ease": "EASE",
    "ials": "iALS",
    "sasrec": "SASRec",
    "lightgcn": "LightGCN",
    "student_onnx_fp32": "ONNX fp32",
    "student_onnx_int8": "ONNX int8",
}
METRIC_WORDS = {
    word: word.upper()
    for word in ("ndcg", "mrr", "map", "auc", "aplt", "arp", "epc", "efd", "upd", "ips", "mae", "rmse")
}
LOWER_IS_BETTER = {"gini", "arp", "upd", "calibration", "kl", "mae", "rmse", "log_loss"}


def check_report(report: Report) -> None:
    """Refuses a dict that isn't a benchmark report.

    Raises:
        UserError: A model has no name, role or metrics, or there are no models at all.
    """
    models = report.get("models")
    if not isinstance(models, list) or not models:
        raise UserError(
            "The report has no 'models': expected a list with a name, a role and metrics each. "
            "Make it with: distill benchmark CONFIG"
        )
    for number, model in enumerate(models):
        missing = [key for key in ("name", "role", "metrics") if key not in model]
        if missing:
            name = model.get("name", f"number {number}")
            raise UserError(
                f"Model {name} of the report lacks {', '.join(missing)}; every model has a name, a role and metrics. "
                "Make the report again with: distill benchmark CONFIG"
            )


def arranged(value: Any) -> Any:
    """The report with the keys of all its records in reading order: report.json has them in alphabetical order."""
    if isinstance(value, Mapping):
        place = {key: number for number, key in enumerate(READING_ORDER)}
        keys = sorted(value, key=lambda key: place.get(key, len(place)))
        return {key: value[key] if key == "settings" else arranged(value[key]) for key in keys}
    return [arranged(inner) for inner in value] if isinstance(value, list | tuple) else value


def ordered_models(report: Report) -> list[Model]:
    """The models grouped by role (teacher first, baselines last), in the report's order within a role."""
    return sorted(report["models"], key=lambda m: ROLES.index(m["role"]) if m["role"] in ROLES else len(ROLES))


def find_model(report: Report, name: str) -> Model | None:
    """The first model of that exact name, or None."""
    return next((m for m in report["models"] if m["name"] == name), None)


def is_number(value: Any) -> TypeGuard[float]:
    """True for a finite number; None and nan stand for "not measured" everywhere in a report."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def metric_names(report: Report) -> list[str]:
    """Every metric that any model has: the headline ones first, whatever order report.json keeps its keys in."""
    found = dict.fromkeys(name for model in report["models"] for name in model["metrics"])
    return [*(name for name in HEADLINE if name in found), *(name for name in found if name not in HEADLINE)]


def metric(model: Model | None, name: str) -> float | None:
    """A metric of a model, or None where it was not measured."""
    value = (model or {}).get("metrics", {}).get(name)
    return float(value) if is_number(value) else None


def interval(model: Model | None, name: str) -> tuple[float, float] | None:
    """The 95 % interval of a metric, or None."""
    return as_interval(((model or {}).get("intervals") or {}).get(name))


def as_interval(value: Any) -> tuple[float, float] | None:
    """`[low, high]` as a pair, or None where either end is missing."""
    if value is None or len(value) != 2 or not all(is_number(v) for v in value):
        return None
    return float(value[0]), float(value[1])


def latency(model: Model | None, percentile: str = "p50", scenario: str = "batch_1") -> float | None:
    """Milliseconds of one call, or None where the model was not timed."""
    value = (((model or {}).get("latency_ms") or {}).get(scenario) or {}).get(percentile)
    return float(value) if is_number(value) else None


def price(model: Model | None, scenario: str = "batch_1") -> float | None:
    """Estimated price of a million answers, or None."""
    value = (((model or {}).get("cost") or {}).get(scenario) or {}).get("cost_per_million")
    return float(value) if is_number(value) else None


def served_model(report: Report) -> Model | None:
    """The model that would go into production, for the speed and size figures.

    The fastest exported file whose parity gate passed (or was not run); the torch student where nothing was exported.
    """
    gates = report.get("export_gate") or {}
    exports = [m for m in report["models"] if m["role"] == "export" and _gate_of(m["name"], gates).get("passed", True)]
    timed = [m for m in exports if latency(m) is not None]
    if timed:
        return min(timed, key=lambda m: latency(m) or math.inf)
    return exports[0] if exports else find_model(report, STUDENT)


def teacher_scenario(report: Report) -> str:
    """Which of the teacher's rows speed is compared with: its language model reads the texts of the history.

    A teacher without such a row, for want of a text encoder, is compared as it is.
    """
    return LIVE if latency(find_model(report, TEACHER), scenario=LIVE) is not None else "batch_1"


def speed_up(report: Report, scenario: str = "") -> float | None:
    """How many times faster the served model is than the teacher at batch 1 (ratio of the p50), or None.

    Args:
        report: The report.
        scenario: The teacher's row; that of `teacher_scenario` by default.
    """
    scenario = scenario or teacher_scenario(report)
    teacher, served = latency(find_model(report, TEACHER), scenario=scenario), latency(served_model(report))
    return teacher / served if teacher and served else None


def shrinkage(report: Report) -> float | None:
    """How many times smaller the served file is than the teacher's weights, or None."""
    teacher, served = (find_model(report, TEACHER) or {}).get("bytes"), (served_model(report) or {}).get("bytes")
    return teacher / served if is_number(teacher) and is_number(served) and teacher and served else None


def tail_definitions(report: Report) -> dict[str, Mapping[str, Any]]:
    """What the report says of each tail definition, by the definition in words."""
    words = {"headline": "Outside the items that hold 80% of interactions", "bottom_80": "The 80% least popular items"}
    tails = (report.get("data") or {}).get("tail") or {}
    return {words.get(name, name): {k: v for k, v in tail.items() if k != "rule"} for name, tail in tails.items()}


def export_figures(report: Report) -> dict[str, dict[str, Any]]:
    """How far each exported variant is from the torch student, flat: whether it passed first, what failed last."""
    found = {}
    for variant, gate in (report.get("export_gate") or {}).items():
        figures = dict(gate) if isinstance(gate, Mapping) else {"passed": gate}
        kept = figures.pop("retention", {})
        kept = kept if isinstance(kept, Mapping) else {OVERALL: kept}
        plain = {k: v for k, v in figures.items() if k != "failures" and not isinstance(v, Mapping)}
        passed = {"passed": plain.pop("passed")} if "passed" in plain else {}
        failures = {"failures": figures["failures"]} if "failures" in figures else {}
        retained = {f"{metric_title(name)} kept": _share(value) for name, value in kept.items()}
        found[variant] = {**passed, **plain, **retained, **failures}
    return found


def example_lists(example: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The recommended titles of one example user by model: teacher, student and undistilled student first."""
    lists = example.get("lists") or {}
    first = [name for name in (TEACHER, STUDENT, CONTROL) if name in lists]
    return {name: lists[name] for name in (*first, *(name for name in lists if name not in first))}


def labels(report: Report) -> list[str]:
    """A readable label for each of `ordered_models`; models that share a name get their seed."""
    models = ordered_models(report)
    counts = Counter(m["name"] for m in models)
    return [label(m["name"]) + (f" (seed {m.get('seed')})" if counts[m["name"]] > 1 else "") for m in models]


def label(name: str) -> str:
    """A readable label: known names in words, any other as it is."""
    return LABELS.get(name, printable(name))


def metric_title(name: str) -> str:
    """`tail_ndcg@10` as "Tail NDCG@10"."""
    base, at, cutoff = name.partition("@")
    words = [METRIC_WORDS.get(word, word) for word in base.split("_")]
    return printable(" ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) + at + cutoff)


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    return name.partition("@")[0].removeprefix("tail_") in LOWER_IS_BETTER


def printable(text: Any) -> str:
    """Text without control characters and lone surrogates, which neither HTML nor UTF-8 can hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _share(value: Any) -> str | None:
    return f"{100 * value:.1f}%" if is_number(value) else None


def _gate_of(name: str, gates: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parity result of an exported model; gates are keyed by variant ("int8") or by the model's whole name."""
    for variant, gate in gates.items():
        if isinstance(gate, Mapping) and (name == variant or name.endswith(f"_{variant}")):
            return gate
    return {}
