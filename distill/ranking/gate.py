"""The teacher gate: only a teacher that beats every simpler model is worth distilling."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.ranking.comparison import compare_pair
from distill.ranking.evaluator import Evaluation
from distill.ranking.significance import holm, paired
from distill.ranking.strata import stratum_values
from distill.runs import read_manifest

GATE = "gate"  # the folder that `distill gate` makes in a run
GATE_FILE = "gate.json"


def teacher_gate(
    teacher: Evaluation,
    others: Mapping[str, Evaluation],
    metric: str = "ndcg@10",
    alpha: float = 0.05,
    flips: int = 10_000,
    seed: int = 0,
    strict: bool = False,
) -> dict[str, Any]:
    """Compares a teacher with every baseline, overall and by stratum.

    Args:
        teacher: Evaluation of the teacher.
        others: Evaluations of the baselines on the same cases.
        metric: The metric that decides; a mean over users.
        alpha: Level at which a difference is called significant (Holm over the baselines).
        flips: Random flips of each test.
        seed: Seed of flips and resamples.
        strict: Pass only where the lower end of every interval is above 0.

    Returns:
        `passed`: the teacher's mean is above each baseline's (with `strict` the whole interval of the difference is).
        `significant`: it also is so beyond chance for each.
        `best_baseline`, and against it `margin`, `relative_margin`, `interval`, `p_value` (not adjusted) and
        `effect_size`. `baselines`: the same for each, with the Holm-adjusted `p_adjusted`. `strata`: by item third and
        user third the teacher's NDCG at the same cutoff against the best baseline's, with `passed` (None where nobody
        takes part), so that a teacher that wins on the head alone is seen.

    Raises:
        UserError: There is no baseline; the evaluations are of different cases or lack the metric.
    """
    if not others:
        raise UserError("The teacher gate needs at least one baseline to compare with (benchmark.baselines).")
    pairs = {name: compare_pair(teacher, other, metric, flips, seed) for name, other in others.items()}
    adjusted = dict(zip(pairs, holm(np.array([p.p_value for p in pairs.values()])), strict=True))
    best = max(others, key=lambda name: others[name].values[metric])
    baselines = {
        name: {"mean": others[name].values[metric], **asdict(pair), "p_adjusted": float(adjusted[name])}
        for name, pair in pairs.items()
    }
    baseline = others[best].values[metric]
    return {
        "metric": metric,
        "teacher": teacher.values[metric],
        "passed": all((pair.low if strict else pair.difference) > 0 for pair in pairs.values()),
        "significant": all(p.difference > 0 and adjusted[name] <= alpha for name, p in pairs.items()),
        "best_baseline": best,
        "margin": pairs[best].difference,
        "relative_margin": pairs[best].difference / baseline if baseline > 0 else float("nan"),
        "interval": [pairs[best].low, pairs[best].high],
        "p_value": pairs[best].p_value,
        "effect_size": pairs[best].effect_size,
        "baselines": baselines,
        "strata": against_strata(teacher, others[best], metric, flips, seed),
    }


def read_gate(run: Path, baselines: Collection[str] = ()) -> dict[str, Any] | None:
    """What `distill gate` found about the teacher that a run has now; None where it wasn't asked about this one.

    Args:
        run: The run's folder.
        baselines: Names that must be among its baselines; a gate with fewer is none.
    """
    manifest, teacher = read_manifest(run / GATE), read_manifest(run / "teacher")
    if manifest is None or teacher is None or manifest["inputs"].get("teacher") != teacher["fingerprint"]:
        return None
    path = run / GATE / GATE_FILE
    gate: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return gate if gate and set(baselines) <= set(gate["baselines"]) else None


def against_strata(
    teacher: Evaluation, baseline: Evaluation, metric: str = "ndcg@10", flips: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Teacher against one baseline by item third and user third; empty where the evaluations don't hold their lists."""
    if teacher.judged is None or baseline.judged is None:
        return {}
    k = int(metric.partition("@")[2])
    ours, theirs = stratum_values(teacher.judged, k), stratum_values(baseline.judged, k)
    strata = {}
    for name, values in ours.items():
        pair = paired(values, theirs[name], flips, seed=seed)
        passed = bool(pair.difference > 0) if pair.users else None
        means = [float(np.nanmean(v)) if pair.users else float("nan") for v in (values, theirs[name])]
        strata[name] = {"teacher": means[0], "baseline": means[1], "passed": passed, **asdict(pair)}
    return strata
