"""Models side by side: letters, refusal of what can't be paired, and the teacher gate."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from ranking_worlds import long_tailed
from rich.console import Console

from distill.errors import UserError
from distill.ranking.cases import Cases
from distill.ranking.comparison import compare, compare_pair, label
from distill.ranking.evaluator import Evaluation, evaluate, rank_array
from distill.ranking.gate import teacher_gate
from distill.ranking.significance import holm, sign_flip

METRICS = ["ndcg@10", "recall@10", "tail_ndcg@10"]


def model(cases: Cases, skill: float, seed: int = 0, metrics: list[str] = METRICS) -> Evaluation:
    """A model that gives the relevant items `skill` on top of noise."""
    scores = np.random.default_rng(seed).normal(size=(len(cases), cases.n_items))
    scores[cases.truth.row_numbers(), cases.truth.items] += skill
    return evaluate(rank_array(scores, cases, 10), cases, metrics)


def test_letters_name_the_beaten_models() -> None:
    cases = long_tailed()
    comparison = compare(
        {"weak": model(cases, 0.0, 1), "twin": model(cases, 0.0, 2), "good": model(cases, 1.5, 3)}, METRICS
    )
    assert comparison.letters(2, 0) == "ab" and comparison.letters(0, 0) == comparison.letters(1, 0) == ""
    assert comparison.p_values[0, 1, 0] > 0.05 and comparison.effect_sizes[2, 0, 0] > 0.3
    assert comparison.effect_sizes[0, 2, 0] == -comparison.effect_sizes[2, 0, 0]
    np.testing.assert_array_equal(comparison.p_values, comparison.p_values.transpose(1, 0, 2))
    console = Console(record=True, width=120)
    console.print(comparison.table())
    text = console.export_text()
    assert "c  good" in text and f"{comparison.means[2, 0]:.4f} ab" in text


def test_p_values_are_holm_adjusted_over_pairs_and_metrics() -> None:
    cases = long_tailed()
    runs = {
        name: model(cases, skill, seed) for seed, (name, skill) in enumerate({"a": 0.0, "b": 0.3, "c": 0.4}.items())
    }
    found = compare(runs, METRICS, flips=2000, seed=9).p_values
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    raw = [sign_flip(runs[i].per_user[m] - runs[j].per_user[m], 2000, 9)[0] for i, j in pairs for m in METRICS]
    expected = holm(np.array(raw)).reshape(3, 3)
    np.testing.assert_allclose([found[0, 1], found[0, 2], found[1, 2]], expected)


def test_lower_is_better_where_it_is() -> None:
    cases = dataclasses.replace(long_tailed(), categories=None)
    categories = dataclasses.replace(cases.truth, indptr=np.arange(121), items=np.arange(120, dtype=np.int32) % 5)
    cases = dataclasses.replace(cases, categories=categories)
    own = np.zeros((200, 120))
    for user in range(200):
        counts = np.bincount(cases.seen[user] % 5, minlength=5)
        own[user] = counts[np.arange(120) % 5]
    rng = np.random.default_rng(0)
    fitting = evaluate(rank_array(own * 0.2 + rng.gumbel(size=own.shape), cases, 10), cases, ["calibration@10"])
    narrow = evaluate(
        rank_array(1.0 * (np.arange(120) % 5 == 4) + np.zeros_like(own), cases, 10), cases, ["calibration@10"]
    )
    comparison = compare({"fitting": fitting, "narrow": narrow}, ["calibration@10"])
    assert comparison.letters(0, 0) == "b" and comparison.letters(1, 0) == ""


def test_metrics_without_a_direction_get_no_letters() -> None:
    cases = long_tailed()
    names = ["arp@10", "ndcg@10"]
    popular = rank_array(np.tile(cases.popularity.astype(float), (200, 1)), cases, 10)
    runs = {"popular": evaluate(popular, cases, names), "other": model(cases, 0.0, 1, names)}
    comparison = compare(runs, names)
    assert comparison.p_values[0, 1, 0] < 0.01 and comparison.letters(0, 0) == comparison.letters(1, 0) == ""


def test_seeds_are_averaged() -> None:
    cases = long_tailed()
    runs = {"base": [model(cases, 0.2, s) for s in (1, 2, 3)], "better": [model(cases, 0.9, s) for s in (4, 5, 6)]}
    comparison = compare(runs, ["ndcg@10"])
    assert comparison.means[1, 0] == pytest.approx(np.mean([r.values["ndcg@10"] for r in runs["better"]]), abs=1e-14)
    pair = compare_pair(runs["better"], runs["base"], "ndcg@10")
    assert (
        pair.seeds == 3
        and pair.low > 0
        and pair.difference == pytest.approx(comparison.means[1, 0] - comparison.means[0, 0])
    )


def test_json_is_plain() -> None:
    cases = long_tailed()
    tree = json.loads(json.dumps(compare({"x": model(cases, 0, 1), "y": model(cases, 1, 2)}, METRICS).as_json()))
    assert tree["models"]["y"]["ndcg@10"]["better_than"] == "a" and len(tree["pairs"]) == 3
    assert tree["letters"] == {"x": "a", "y": "b"}


def test_what_cannot_be_paired_is_refused() -> None:
    cases = long_tailed()
    one = model(cases, 0, 1, [*METRICS, "coverage@10"])
    with pytest.raises(UserError, match="at least two models"):
        compare({"one": one}, METRICS)
    other = model(dataclasses.replace(cases, fingerprint="beefbeefbeefbeef"), 0, 2)
    with pytest.raises(UserError, match="different data: fingerprints  and beefbeefbeef"):
        compare({"one": one, "other": other}, METRICS)
    fewer = model(cases.take(np.arange(100)), 0, 2)
    with pytest.raises(UserError, match=r"200 users\) and .* \(100 users"):
        compare({"one": one, "fewer": fewer}, METRICS)
    with pytest.raises(UserError, match=r"'coverage@10' is one value of all lists for one"):
        compare({"one": one, "two": one}, ["coverage@10"])
    with pytest.raises(UserError, match=r"'ndcg@5' wasn't evaluated .*did you mean 'ndcg@10'"):
        compare({"one": one, "two": one}, ["ndcg@5"])


def test_letters_go_on_after_z() -> None:
    assert [label(i) for i in (0, 25, 26, 53)] == ["a", "z", "a1", "b2"]


def test_gate_passes_a_better_teacher_and_says_by_how_much() -> None:
    cases = long_tailed()
    teacher, weak, strong = model(cases, 1.5, 1), model(cases, 0.1, 2), model(cases, 0.6, 3)
    gate = teacher_gate(teacher, {"weak": weak, "strong": strong})
    assert gate["passed"] and gate["significant"] and gate["best_baseline"] == "strong"
    assert gate["margin"] == pytest.approx(teacher.values["ndcg@10"] - strong.values["ndcg@10"])
    assert gate["relative_margin"] == pytest.approx(gate["margin"] / strong.values["ndcg@10"])
    assert gate["interval"][0] < gate["margin"] < gate["interval"][1] and gate["p_value"] < 0.01
    assert teacher_gate(teacher, {"weak": weak, "strong": strong}, strict=True)["passed"]
    assert gate["baselines"]["weak"]["difference"] > gate["margin"]
    assert set(gate["strata"]) == {f"{s} items" for s in ("head", "mid", "tail")} | {
        f"{s} users" for s in ("light", "medium", "heavy")
    }
    assert gate["strata"]["tail items"]["passed"] and gate["strata"]["heavy users"]["passed"] is None
    json.dumps(gate)


def test_gate_fails_where_one_baseline_is_above() -> None:
    cases = long_tailed()
    gate = teacher_gate(model(cases, 0.5, 1), {"weak": model(cases, 0.0, 2), "strong": model(cases, 1.0, 3)})
    assert not gate["passed"] and not gate["significant"] and gate["margin"] < 0 and gate["best_baseline"] == "strong"


def test_a_narrow_win_passes_but_is_not_significant() -> None:
    cases = long_tailed()
    teacher = model(cases, 0.5, 1)
    values = teacher.per_user["ndcg@10"] + np.random.default_rng(0).normal(0, 0.2, 200)
    values += teacher.values["ndcg@10"] - values.mean() - 0.001
    rival = dataclasses.replace(teacher, per_user={"ndcg@10": values}, values={"ndcg@10": float(values.mean())})
    gate = teacher_gate(teacher, {"rival": rival})
    assert gate["passed"] and not gate["significant"] and gate["p_value"] > 0.5
    strict = teacher_gate(teacher, {"rival": rival}, strict=True)
    assert strict["interval"][0] < 0 < strict["margin"] and not strict["passed"]


def test_gate_needs_a_baseline() -> None:
    with pytest.raises(UserError, match="at least one baseline"):
        teacher_gate(model(long_tailed(), 1.0), {})
