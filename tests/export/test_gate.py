import json
from dataclasses import replace

import numpy as np
import pytest
from export_samples import dataset_for, hybrid, torch_scores

from distill.config import Export
from distill.data.contexts import Kind, from_lists
from distill.data.dataset import VALID
from distill.export.gate import all_scores, compare, failures, gate_cases, noise, overlap, table
from distill.export.graph import build_graphs
from distill.ranking.cases import cases_of
from distill.serving.session import Graph


@pytest.fixture(scope="module")
def world():
    """A student, its graphs, the cases that its own lists made, and how to compare."""
    student = hybrid()
    models = build_graphs(student, ["fp32", "int8"], 20)
    graphs = {name: Graph(model.SerializeToString(), student.n_items) for name, model in models.items()}
    cases = cases_of(dataset_for(student), VALID)
    contexts = from_lists(cases.seen, cases.n_items, Kind.REAL, cases.users)

    def against(other, limits=Export()):  # noqa: B008
        return compare(
            graphs,
            lambda rows: torch_scores(other, contexts.batch(rows, 20).history),
            lambda rows: contexts.batch(rows, 20),
            cases,
            limits,
        )

    return student, graphs, against


def test_a_true_copy_passes(world):
    student, _, against = world
    results = against(student)
    fp32, int8 = results["fp32"], results["int8"]
    assert fp32.failures == [] and int8.failures == []
    assert fp32.cases == 400 and fp32.torch["ndcg@10"] > 0.4
    assert fp32.max_score_error < 1e-4 and fp32.overlap == 1 and fp32.identical == 1 and fp32.unexplained == 0
    assert fp32.torch == pytest.approx(fp32.exported)
    assert 1e-4 < int8.max_score_error < 0.5 and 0.95 < int8.overlap < 1 and int8.identical < 1 and int8.unexplained > 0


def test_another_student_fails(world):
    *_, against = world
    reasons = " ".join(against(hybrid(seed=9))["fp32"].failures)
    for part in ("scores differ by up to", "places of the top 10 differ", "overlap@10 is"):
        assert part in reasons


def test_limits_decide(world):
    student, _, against = world
    strict = against(student, Export(min_overlap=1.0, min_retention=1.2, min_tail_retention=2.0))
    assert len(strict["int8"].failures) == 4
    assert "at least 1.0 is wanted" in strict["int8"].failures[0]
    assert failures(strict["int8"], "int8", Export()) == []


def test_the_figures_are_plain_json(world):
    student, _, against = world
    results = against(student)
    result = json.loads(json.dumps({name: f.as_result() for name, f in results.items()}, allow_nan=False))
    assert result["int8"]["passed"] is True and result["int8"]["overlap@10"] == results["int8"].overlap
    assert [column.header for column in table(results).columns][:2] == ["variant", "|Δ score|"]
    assert table(results).row_count == 2


def test_nan_figures_fail_and_become_none(world):
    student, _, against = world
    broken = replace(against(student)["fp32"], max_score_error=float("nan"), overlap=float("nan"))
    found = failures(broken, "fp32", Export())
    assert len(found) == 2
    assert broken.as_result()["max_score_error"] is None


def test_a_loss_in_the_tail_counts_beyond_the_noise_only(world):
    student, _, against = world
    figures = against(student)["int8"]
    name = "tail_coverage@10"
    for kept, noise_of, failed in ((0.8, 0.4, False), (0.8, 0.05, True), (0.91, 0.0, False)):
        lost = replace(figures, retention={**figures.retention, name: kept}, noise={**figures.noise, name: noise_of})
        assert bool(failures(lost, "int8", Export())) is failed
    worse = replace(figures, retention={**figures.retention, "ndcg@10": 0.97}, noise={**figures.noise, "ndcg@10": 0.4})
    assert failures(worse, "int8", Export()) == ["ndcg@10 keeps 0.9700 of torch's, at least 0.98 is wanted"]


def test_noise_is_two_deviations_of_chance():
    random = np.random.default_rng(0)
    reference, exported = random.random(400), random.random(400)
    by_chance = []
    for _ in range(4000):  # each difference up or down, as a coin falls
        swap = random.random(400) < 0.5
        by_chance.append((np.where(swap, exported, reference) - np.where(swap, reference, exported)).sum())
    assert noise(exported, reference) == pytest.approx(2 * np.std(by_chance) / reference.sum(), rel=0.05)
    four_of_five = noise(np.array([1.0, 1, 1, 1, 0]), np.ones(5))
    assert four_of_five == pytest.approx(0.4)  # one item lost of five is within the noise of a limit of 0.9
    assert noise(np.zeros(3), np.zeros(3)) == 0 and noise(reference, reference) == 0


def test_overlap_counts_listed_items_only():
    wanted = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    ids = np.array([[4, 3, 9, 8], [6, -1, -1, -1], [7, -1, -1, -1]])
    assert overlap(ids, wanted) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_scores_of_all_items_come_in_item_order(world):
    student, graphs, _ = world
    history = np.array([[5, 6, 7]])
    np.testing.assert_allclose(all_scores(graphs["fp32"], history), torch_scores(student, history), atol=1e-5)


def test_many_cases_are_thinned_evenly():
    cases = cases_of(dataset_for(hybrid(), users=2500), VALID)
    thin = gate_cases(cases)
    assert len(thin) == 1000 and thin.users[0] == 0 and thin.users[-1] == 2499
    assert np.diff(thin.users).min() >= 2 and np.diff(thin.users).max() <= 3
    assert gate_cases(thin) is thin
