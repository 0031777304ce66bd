"""The parity gate: an exported file must say what the torch student says, item by item and in the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

from distill.config import Export
from distill.data.contexts import ContextBatch
from distill.ranking.cases import Cases
from distill.ranking.evaluator import Evaluation, evaluate, rank
from distill.serving.session import Graph

K = 10
METRICS = (f"ndcg@{K}", f"tail_ndcg@{K}", f"tail_coverage@{K}")
MOST_CASES = 1000
MOST_SCORES = 2**26  # scores compared one by one
TOLERANCE = 1e-5  # of fp32, relative to the largest score where that is above 1
FP32_OVERLAP = 0.999
FLOAT32 = ("fp32", "exact")  # variants that are held to torch's scores


@dataclass(frozen=True)
class Figures:
    """How far one exported file is from the torch student.

    Attributes:
        cases: Histories compared.
        max_score_error: Largest |exported - torch| over all items of the compared histories.
        score_scale: Largest |torch score|, at least 1.
        overlap: Mean share of the torch student's top 10 that the file also lists.
        identical: Share of histories with the same top 10 in the same order.
        unexplained: Places of the top 10 that differ although torch's scores of the two items differ by more than two
            tolerances: not a tie, but another answer.
        torch, exported: Metrics of both on the validation cases.
        retention: exported / torch of each metric; 1 where torch has 0, or no user takes part.
        noise: Two standard errors of each retention.
        failures: What is wrong, in words; empty when the gate is passed.
    """

    cases: int
    max_score_error: float
    score_scale: float
    overlap: float
    identical: float
    unexplained: int
    torch: dict[str, float]
    exported: dict[str, float]
    retention: dict[str, float]
    noise: dict[str, float]
    failures: list[str] = field(default_factory=list)

    def as_result(self) -> dict[str, Any]:
        """Plain values for JSON, with the names that reports use."""
        values = asdict(self)
        return _without_nan({"passed": not self.failures, f"overlap@{K}": values.pop("overlap"), **values})


def gate_cases(cases: Cases) -> Cases:
    """At most 1,000 cases, evenly spread over the users."""
    if len(cases) <= MOST_CASES:
        return cases
    return cases.take(np.linspace(0, len(cases) - 1, MOST_CASES).astype(np.int64))


def compare(
    graphs: Mapping[str, Graph],
    score: Callable[[np.ndarray], np.ndarray],
    contexts: Callable[[np.ndarray], ContextBatch],
    cases: Cases,
    limits: Export,
    listed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, Figures]:
    """Compares exported graphs with the torch student on the same histories.

    Args:
        graphs: Loaded graphs by variant; `fp32` and `exact` are held to the scores, the others to lists and metrics.
        score: Torch scores (b, N) of case rows (b,), nothing masked.
        contexts: The histories and seen items of case rows.
        cases: Validation cases.
        limits: What is tolerated.
        listed: Torch scores (b, N) by which torch's lists are made, where those aren't `score`: with -inf for what the
            first of two stages doesn't find.
    """
    places = min(K, cases.n_items)
    wanted = rank(listed or score, cases, places)
    before = evaluate(_ten(wanted), cases, METRICS)
    results = {}
    for variant, graph in graphs.items():
        batch = contexts(np.arange(len(cases)))
        ids, _ = graph.top(batch.history, batch.seen, places)
        after = evaluate(_ten(ids), cases, METRICS)
        error, scale, unexplained = _score_differences(graph, score, contexts, wanted, ids)
        figures = Figures(
            cases=len(cases),
            max_score_error=error,
            score_scale=scale,
            overlap=overlap(ids, wanted),
            identical=float((ids == wanted).all(axis=1).mean()),
            unexplained=unexplained,
            torch=before.values,
            exported=after.values,
            retention={name: _ratio(after.values[name], before.values[name]) for name in METRICS},
            noise={name: noise(_parts(after, name), _parts(before, name)) for name in METRICS},
        )
        results[variant] = replace(figures, failures=failures(figures, variant, limits))
    return results


def failures(figures: Figures, variant: str, limits: Export) -> list[str]:
    """What in the figures is beyond the limits, one line each.

    Tail metrics may hang on a handful of hits or items, so they fail only where the loss is beyond the noise as well.
    """
    found = []
    least_overlap = limits.min_overlap
    if variant in FLOAT32:
        least_overlap = FP32_OVERLAP
        allowed = TOLERANCE * figures.score_scale
        if not figures.max_score_error <= allowed:
            found.append(f"scores differ by up to {figures.max_score_error:.2e}, allowed {allowed:.2e}")
        if figures.unexplained:
            found.append(f"{figures.unexplained} places of the top {K} differ without a tie")
    if not figures.overlap >= least_overlap:
        found.append(f"overlap@{K} is {figures.overlap:.4f}, at least {least_overlap} is wanted")
    for name, ratio in figures.retention.items():
        if name.startswith("tail"):
            if not ratio + figures.noise[name] >= limits.min_tail_retention:
                kept = f"{ratio:.4f} (noise {figures.noise[name]:.4f})"
                found.append(f"{name} keeps {kept} of torch's, at least {limits.min_tail_retention} is wanted")
        elif not ratio >= limits.min_retention:
            found.append(f"{name} keeps {ratio:.4f} of torch's, at least {limits.min_retention} is wanted")
    return found


def table(results: Mapping[str, Figures]) -> Table:
    """The figures of all variants, a row each; metrics as shares of torch's."""
    shown = Table(title=f"parity with the torch student, top {K}; metrics as shares of torch's")
    metrics = (name.removesuffix(f"@{K}").replace("_", " ") for name in METRICS)
    for name in ("variant", "|Δ score|", "overlap", "same", *metrics, "gate"):
        shown.add_column(name, justify="left" if name in ("variant", "gate") else "right")
    for variant, figures in results.items():
        kept = [f"{ratio:.4f}" for ratio in figures.retention.values()]
        passed = "failed" if figures.failures else "passed"
        row = [f"{figures.max_score_error:.1e}", f"{figures.overlap:.4f}", f"{figures.identical:.4f}", *kept, passed]
        shown.add_row(variant, *row)
    return shown


def overlap(ids: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of the listed items of `wanted` (U, K) that `ids` (U, K) lists too; -1 marks empty places."""
    common = ((ids[:, :, None] == wanted[:, None, :]) & (wanted[:, None, :] >= 0)).sum(axis=(1, 2))
    listed = (wanted >= 0).sum(axis=1)
    return float(np.where(listed > 0, common / np.maximum(listed, 1), 1.0).mean())


def _score_differences(
    graph: Graph,
    score: Callable[[np.ndarray], np.ndarray],
    contexts: Callable[[np.ndarray], ContextBatch],
    wanted: np.ndarray,
    ids: np.ndarray,
) -> tuple[float, float, int]:
    """Largest score error, scale of the scores, and how many places of the lists differ without a tie."""
    rows = min(len(wanted), max(1, MOST_SCORES // graph.n_items))
    step = max(1, 2**22 // graph.n_items)
    error, scale, gaps = 0.0, 1.0, []
    for start in range(0, rows, step):
        some = np.arange(start, min(start + step, rows))
        reference, exported = score(some), all_scores(graph, contexts(some).history)
        with np.errstate(invalid="ignore"):
            difference = np.where(reference == exported, 0.0, np.abs(exported - reference))
        error = max(error, float(difference.max()))  # a NaN is lost by max, but makes the comparison below fail
        error = float("nan") if np.isnan(difference).any() else error
        scale = max(scale, float(np.abs(reference[np.isfinite(reference)]).max(initial=0.0)))
        a, b = (np.take_along_axis(reference, np.maximum(x[some], 0), axis=1) for x in (wanted, ids))
        gap = np.where(wanted[some] == ids[some], 0.0, np.abs(a - b))
        gaps.append(np.where((wanted[some] < 0) != (ids[some] < 0), np.inf, gap))
    return error, scale, int(np.count_nonzero(np.concatenate(gaps) > 2 * TOLERANCE * scale))


def all_scores(graph: Graph, history: np.ndarray) -> np.ndarray:
    """Scores (B, N) of the file itself: its lists of length N, put back in item order."""
    nothing = np.empty((len(history), 0), np.int64)
    ids, values = graph.top(history, nothing, graph.n_items)
    scores = np.full((len(history), graph.n_items + 1), -np.inf, np.float32)
    np.put_along_axis(scores, np.where(ids >= 0, ids, graph.n_items), values, axis=1)
    return scores[:, :-1]


def _ten(ids: np.ndarray) -> np.ndarray:
    """Lists of a catalogue with fewer than ten items, filled up to ten places."""
    return np.pad(ids, ((0, 0), (0, max(0, K - ids.shape[1]))), constant_values=-1)


def noise(exported: np.ndarray, reference: np.ndarray) -> float:
    """Two standard errors of sum(exported) / sum(reference), if the two differed by chance alone.

    The differences of the parts (users, or items that are covered or not) are then as often up as down, and their sum
    has the variance sum(d^2): McNemar's test, where the parts are 0 or 1.

    Args:
        exported, reference: What each part adds to the metric, (P,).
    """
    total = float(reference.sum())
    return 2 * float(np.sqrt(np.square(exported - reference).sum())) / total if total > 0 else 0.0


def _parts(evaluation: Evaluation, name: str) -> np.ndarray:
    """What a metric is the sum of: a value a user, or for coverage a 0 or 1 a tail item."""
    if name in evaluation.per_user:
        return np.nan_to_num(evaluation.per_user[name])
    assert evaluation.judged is not None
    return (evaluation.judged.exposures(K) > 0)[evaluation.judged.tail].astype(np.float64)


def _ratio(value: float, reference: float) -> float:
    """value / reference; 1 where there is nothing to lose (torch has 0, or no user takes part in the metric)."""
    return value / reference if reference and not np.isnan(reference) else 1.0


def _without_nan(value: Any) -> Any:
    """Plain values with None for NaN, which JSON doesn't know."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
