"""The training loop: schedule, accumulation, clipping, evaluation, early stop, and what it says of a bad run."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_job import ROWS, accuracy, small_job

from distill.engine.local import Local
from distill.engine.loop import best_weights, evaluation_points, fit, one_cycle, parameter_groups, share
from distill.errors import UserError


def trained(folder: Path, evaluate=None, accelerator=None, **settings) -> dict[str, torch.Tensor]:
    fit(small_job(**settings), accelerator or Local(), folder, evaluate, "small")
    return best_weights(folder)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=tolerance, rtol=0, msg=name)


def test_one_cycle_rises_to_one_and_falls_to_a_hundredth():
    factors = [one_cycle(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[10:]))
    assert one_cycle(100, 100, 0.1) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("batches", "evaluations", "expected"),
    [(10, 1, {10}), (10, 2, {5, 10}), (10, 3, {3, 7, 10}), (2, 5, {1, 2}), (7, 0, {7})],
)
def test_evaluation_points_are_spread_and_hold_the_end(batches, evaluations, expected):
    assert evaluation_points(batches, evaluations) == expected


def test_weight_decay_is_for_matrices_only():
    job = small_job()
    matrices, rest = parameter_groups(job.model, 0.5)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in rest["params"]} == {1}
    assert (matrices["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)


def test_training_learns(tmp_path):
    curve = fit(small_job(epochs=8, learning_rate=0.03), Local(), tmp_path, accuracy, "small")
    assert len(curve) == 8
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert max(point["validation"] for point in curve) > 0.9


def test_same_seed_same_weights(tmp_path):
    assert_close(trained(tmp_path / "a"), trained(tmp_path / "b"), 0.0)


@pytest.mark.parametrize("batch_size", [4, 20])
def test_accumulated_batches_equal_one_large_batch(tmp_path, batch_size):
    """24 batches of 4 divide by two; 5 batches of 20 leave a last group of one (of 16 rows)."""
    quiet = {"dropout": 0.0, "shuffle": False, "epochs": 2}
    small = trained(tmp_path / "small", batch_size=batch_size, accumulation=2, **quiet)
    large = trained(tmp_path / "large", batch_size=2 * batch_size, **quiet)
    assert_close(small, large, 1e-5)


def test_a_gradient_longer_than_clip_is_shortened(tmp_path):
    lengths = []

    class Watching(Local):
        def clip_grad_norm_(self, parameters, norm):
            parameters = list(parameters)
            before = super().clip_grad_norm_(parameters, norm)
            after = torch.stack([p.grad.norm() for p in parameters]).norm()
            lengths.append((float(before), float(after)))
            return before

    trained(tmp_path, accelerator=Watching(), epochs=1, clip=0.05)
    before, after = np.array(lengths).T
    assert (before > 0.05).any()
    assert (after < 0.0501).all()


def test_early_stop_keeps_the_best_weights(tmp_path):
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen = []

    def evaluate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(values)

    curve = fit(small_job(epochs=10, patience=2), Local(), tmp_path, evaluate, "small")
    assert [point["validation"] for point in curve] == [0.1, 0.5, 0.4, 0.3]
    assert_close(best_weights(tmp_path), seen[1], 0.0)


def test_without_evaluation_the_last_weights_are_kept(tmp_path):
    job = small_job()
    fit(job, Local(), tmp_path, None, "small")
    assert_close(best_weights(tmp_path), job.model.state_dict(), 0.0)


def test_a_loss_that_is_not_a_number_stops_with_advice(tmp_path):
    job = small_job(epochs=3)
    good, calls = job.collate, iter(range(10_000))
    job.collate = lambda rows: good(rows) | ({"x": torch.full((len(rows), 6), torch.nan)} if next(calls) > 20 else {})
    with pytest.raises(UserError, match=r"small: the loss became nan in epoch 2.*Lower the learning rate"):
        fit(job, Local(), tmp_path, accuracy, "small")
    assert all(torch.isfinite(value).all() for value in best_weights(tmp_path).values())


def test_nothing_to_train_on_is_said(tmp_path):
    job = small_job()
    job.batches = lambda epoch: []
    with pytest.raises(UserError, match="not a single batch"):
        fit(job, Local(), tmp_path, None, "small")


def test_shares_are_disjoint_and_of_one_length():
    class Two(Local):
        num_processes = 2

    first, second = Two(), Two()
    second.process_index = 1
    rows = np.arange(ROWS + 1)
    one, other = share(rows, first), share(rows, second)
    assert len(one) == len(other) == ROWS // 2
    assert not set(one) & set(other)


@pytest.mark.parametrize("fails", ["forward", "collate"])
def test_out_of_memory_names_the_settings_to_lower(tmp_path, fails):
    job = small_job(epochs=1)

    def hungry(rows):
        return {"x": torch.empty(10**15)}

    if fails == "collate":
        job.collate = hungry
    else:
        job.model.forward = hungry
    with pytest.raises(UserError, match=r"small: out of memory \(.*\)\. Lower batch_size.*gradient_checkpointing"):
        fit(job, Local(), tmp_path, accuracy, "small")


def test_other_errors_of_training_stay_themselves(tmp_path):
    job = small_job(epochs=1)
    job.collate = lambda rows: {"x": torch.ones(2, 5)}
    with pytest.raises(RuntimeError, match="shapes"):
        fit(job, Local(), tmp_path, accuracy, "small")


def test_rates_may_differ_by_parameter(tmp_path):
    job = small_job(epochs=1)
    job.rate_scale = lambda name: 0.0 if name.startswith("layers.0") else 1.0
    start = {name: value.clone() for name, value in job.model.state_dict().items()}
    fit(job, Local(), tmp_path, None, "small")
    moved = {name: not torch.equal(value, start[name]) for name, value in job.model.state_dict().items()}
    assert moved == {"layers.0.weight": False, "layers.0.bias": False, "layers.3.weight": True, "layers.3.bias": True}
