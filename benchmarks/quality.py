"""The quality half of the report: every model ranked over the full catalogue on the test part, compared and cut up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.data.dataset import Dataset
from distill.ranking.cases import Cases, contains
from distill.ranking.evaluator import Evaluation, evaluate
from distill.ranking.segments import describe_tails, three_by_three, user_thirds
from distill.ranking.significance import paired

METRICS = (
    "ndcg@10",
    "recall@10",
    "tail_ndcg@10",
    "tail_recall@10",
    "coverage@10",
    "tail_coverage@10",
    "gini@10",
)
K = 10
COMPARED = ("ndcg@10", "recall@10", "tail_ndcg@10", "tail_recall@10")
EXPOSURE_POINTS = 100


@dataclass
class Contender:
    """One row of the table.

    Attributes:
        name: As in report.json.
        role: teacher, student, control, baseline or export.
        ranked: Its lists on the test cases, int32 (U, 10).
        seed: Seed of its training; None where nothing is random.
        parameters, bytes: Its size; None where it has no meaning.
        answer: Number of a test case to its top 10, for timing; None where it isn't timed.
        notes: More keys for report.json, such as tuned settings.
    """

    name: str
    role: str
    ranked: np.ndarray
    seed: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    answer: Callable[[int], Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def describe(contender: Contender, evaluation: Evaluation, cases: Cases, resamples: int, seed: int) -> dict[str, Any]:
    """A model's entry in report.json, without its latency."""
    intervals = evaluation.intervals(resamples, seed)
    segments = [
        {"item": item, "user": user, "ndcg@10": cell["ndcg"], **{k: cell[k] for k in ("low", "high", "users")}}
        for item, row in three_by_three(contender.ranked, cases, K, resamples, seed).items()
        for user, cell in row.items()
    ]
    return {
        "name": contender.name,
        "role": contender.role,
        "seed": contender.seed,
        "metrics": evaluation.values,
        "intervals": {name: list(bounds) for name, bounds in intervals.items()},
        "parameters": contender.parameters,
        "bytes": contender.bytes,
        "latency_ms": None,
        "segments": segments,
        **contender.notes,
    }


def distillation(
    teacher: Evaluation, students: Sequence[Evaluation], controls: Sequence[Evaluation], seed: int
) -> dict[str, Any]:
    """What distillation brought, by metric; students and controls of the same seed are compared.

    With D, S, T the means of student, control and teacher over seeds: retention = D / T; gain = (D - S) / S with its
    interval (users and seeds drawn anew) and p value (sign flips over users); gap closed = (D - S) / (T - S), left out
    where the teacher isn't above the control beyond chance. `student` and `control` list the value of each seed.
    """
    result = {}
    for name in COMPARED:
        each = [[e.values[name] for e in group] for group in (students, controls)]
        t, d, s = teacher.values[name], float(np.mean(each[0])), float(np.mean(each[1]))
        one, two = (np.stack([e.per_user[name] for e in group]) for group in (students, controls))
        gain = paired(one, two, seed=seed)
        gap = paired(np.repeat(teacher.per_user[name][None], len(two), axis=0), two, seed=seed)
        certain = gap.p_value <= 0.05 and gap.difference > 0
        result[name] = {
            "retention": d / t if t else None,
            "gain": gain.difference / s if s else None,
            "gain_interval": [gain.low / s, gain.high / s] if s else None,
            "p_value": gain.p_value,
            "gap_closed": gain.difference / gap.difference if certain else None,
            "seeds": gain.seeds,
            "student": each[0],
            "control": each[1],
        }
    return result


def exposure(ranked: np.ndarray, popularity: np.ndarray) -> list[float]:
    """Cumulative share of all recommendations that goes to the most popular x % of items, at 100 values of x."""
    counts = np.bincount(ranked[ranked >= 0], minlength=len(popularity))[np.argsort(-popularity, kind="stable")]
    share = np.cumsum(counts) / max(1, counts.sum())
    places = np.linspace(0, len(share) - 1, EXPOSURE_POINTS).round().astype(int)
    return [round(float(share[p]), 5) for p in places]


def examples(
    lists: Mapping[str, np.ndarray], cases: Cases, dataset: Dataset, seed: int, count: int = 5
) -> list[dict[str, Any]]:
    """Users of different activity with their history, the lists of some models side by side, and what they chose.

    Args:
        lists: Ranked lists by model, (U, 10) each.
        cases: The test cases.
        dataset: For titles and ids.
        seed: Decides who is shown.
        count: Users shown, spread over the activity thirds.
    """
    thirds = user_thirds(cases.activity)
    rng = np.random.default_rng(seed)
    shown = []
    for number in range(count):
        third = number * 3 // count
        rows = np.flatnonzero(thirds == third)
        if not len(rows):
            continue
        row = int(rng.choice(rows))
        titles = {name: [dataset.titles[i] for i in ranked[row] if i >= 0] for name, ranked in lists.items()}
        shown.append(
            {
                "user": str(dataset.user_ids[cases.users[row]]),
                "activity": ("low", "mid", "high")[third],
                "history": [dataset.titles[i] for i in cases.seen[row][-5:]],
                "lists": titles,
                "truth": [dataset.titles[i] for i in cases.truth[row][:5]],
            }
        )
    return shown


def item_changes(
    teacher: np.ndarray, student: np.ndarray, cases: Cases, titles: Sequence[str], count: int = 12
) -> dict[str, Any]:
    """What the student lost and gained against the teacher, item by item.

    An item's hits are the test users who chose it and found it in their top 10.

    Args:
        teacher, student: Ranked lists (U, 10).
        cases: The test cases.
        titles: Titles of all items.
        count: Items listed on each side.

    Returns:
        "lost" and "gained", items with the largest differences first, and "summary" with the counts over all items.
    """
    hits = {name: hits_by_item(ranked, cases) for name, ranked in (("teacher", teacher), ("student", student))}
    chosen = np.bincount(cases.truth.items, minlength=cases.n_items)
    change = hits["student"] - hits["teacher"]

    def listed(sign: int) -> list[dict[str, Any]]:
        # Of equal differences the one comes first that is the larger part of the item's choices.
        order = np.lexsort((chosen, -sign * change))[:count]
        return [
            {
                "title": titles[item],
                "popularity": int(cases.popularity[item]),
                "chosen": int(chosen[item]),
                "teacher_hits": int(hits["teacher"][item]),
                "student_hits": int(hits["student"][item]),
            }
            for item in order
            if sign * change[item] > 0
        ]

    summary = {
        "items_that_lost": int((change < 0).sum()),
        "items_that_gained": int((change > 0).sum()),
        "teacher_hits": int(hits["teacher"].sum()),
        "student_hits": int(hits["student"].sum()),
    }
    return {"lost": listed(-1), "gained": listed(1), "summary": summary}


def hits_by_item(ranked: np.ndarray, cases: Cases) -> np.ndarray:
    """In how many users' lists each item is a hit, int64 (N,)."""
    keys = np.arange(len(ranked))[:, None] * np.int64(cases.n_items) + ranked
    hit = (ranked >= 0) & contains(cases.truth_keys, keys)
    return np.bincount(ranked[hit], minlength=cases.n_items)


def data_card(dataset: Dataset, cases: Cases, name: str, split: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    outside, bottom = describe_tails(cases).values()
    return {
        "name": name,
        "fingerprint": dataset.fingerprint,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": len(dataset.items),
        "test_users": len(cases),
        "split": split,
        "tail": {"headline": outside, "bottom_80": bottom},
        "summary": dataset.summary,
    }


def evaluate_all(contenders: list[Contender], cases: Cases) -> dict[str, Evaluation]:
    """Evaluations by model name."""
    return {c.name: evaluate(c.ranked, cases, METRICS) for c in contenders}
