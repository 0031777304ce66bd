import time

import numpy as np
import pytest
import torch

from benchmarks.latency import measure, measure_for, measure_interleaved
from benchmarks.latency.figures import cost, figures, percentile_intervals
from benchmarks.latency.single import ROUNDS


def waiter(seconds):
    def call(number):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


def test_a_known_wait_is_measured():
    found = measure(waiter(0.001), calls=200, warmup=5)
    assert {"first", "min", "p50", "p90", "p99", "mean", "calls", "p50_low", "p50_high"} <= set(found)
    assert found["calls"] == 200
    assert 1.0 <= found["min"] < 1.2
    assert found["min"] <= found["p50"] <= found["p90"] <= found["p99"]
    assert found["p50_low"] <= found["p50"] <= found["p50_high"]


def test_the_slower_model_is_slower_by_the_right_factor():
    found = measure_interleaved({"a": waiter(0.0005), "b": waiter(0.002)}, {"a": 100, "b": 40}, warmup=3)
    assert found["a"]["calls"] == 100 and found["b"]["calls"] == 40
    assert found["b"]["min"] / found["a"]["min"] == pytest.approx(4, rel=0.1)


def test_every_request_is_made_once_and_the_turns_alternate():
    log = []
    models = {name: (lambda number, name=name: log.append((name, number))) for name in "ab"}
    measure_interleaved(models, {"a": 25, "b": 10}, warmup=0)
    timed = log[2:]  # the very first call of each comes before
    assert [n for name, n in timed if name == "a"] == list(range(25))
    assert [n for name, n in timed if name == "b"] == list(range(10))
    blocks = [name for i, (name, _) in enumerate(timed) if i == 0 or timed[i - 1][0] != name]
    assert blocks[:4] == ["a", "b", "a", "b"] and len(blocks) == ROUNDS + 1


def test_fewer_calls_than_rounds_are_all_made():
    assert measure(lambda number: None, calls=3, warmup=1)["calls"] == 3


def test_the_first_call_is_kept_apart():
    state = {"cold": True}

    def call(number):
        if state.pop("cold", False):
            time.sleep(0.02)

    found = measure(call, calls=20, warmup=2)
    assert found["first"] >= 20 and found["p90"] < 20


def test_a_slow_model_is_not_warmed_for_minutes():
    begin = time.perf_counter()
    measure(waiter(0.3), calls=2, warmup=1000)
    assert time.perf_counter() - begin < 6


def test_a_slow_model_gets_the_calls_that_fit_in_its_time_and_at_least_one():
    assert measure_for(waiter(0.05), seconds=0.3, most=100)["calls"] in (4, 5)
    assert measure_for(waiter(0.05), seconds=0.01, most=100)["calls"] == 1
    assert measure_for(waiter(0.001), seconds=1, most=7)["calls"] == 7


def test_torch_has_one_thread_meanwhile():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    try:
        measure(lambda number: seen.append(torch.get_num_threads()), calls=5, warmup=1)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_figures_are_milliseconds():
    found = figures(np.arange(1, 101) * 1_000_000, first=5_000_000)
    assert found["p50"] == pytest.approx(50.5) and found["first"] == 5 and found["mean"] == pytest.approx(50.5)
    assert found["min"] == 1 and found["calls"] == 100 and isinstance(found["calls"], int)


@pytest.mark.parametrize(("calls", "shown"), [(99, set()), (100, {"p99"}), (1000, {"p99", "p99.9"})])
def test_a_percentile_that_so_few_calls_cannot_show_is_left_out(calls, shown):
    assert {"p99", "p99.9"} & set(figures(np.arange(1, calls + 1))) == shown


def test_intervals_hold_the_true_percentile_about_as_often_as_they_say():
    """Lognormal calls whose percentiles are known: 95 % intervals, 100 tries."""
    rng = np.random.default_rng(0)
    true = np.exp([0.0, 2.3263])  # p50 and p99 of the standard lognormal distribution
    inside = np.zeros(2)
    for number in range(100):
        ends = percentile_intervals(rng.lognormal(size=2000), [50, 99], resamples=100, seed=number)
        inside += (ends[:, 0] <= true) & (true <= ends[:, 1])
    assert (inside >= 87).all()


def test_calls_that_come_in_stretches_have_wider_intervals_than_independent_ones():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.exponential(size=200), 50)
    shuffled = rng.permutation(values)
    widths = [float(np.ptp(percentile_intervals(v, [50])[0])) for v in (values, shuffled)]
    assert widths[0] > 3 * widths[1]


def test_intervals_are_the_same_with_the_same_seed():
    values = np.random.default_rng(0).exponential(size=3000)
    one, two, other = (percentile_intervals(values, [50, 99], seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_the_price_of_a_million_answers():
    found = cost(cpu_seconds=2.0, answers=1000, core_hour_price=0.036)
    assert found["cpu_seconds_per_million"] == 2000
    assert found["cost_per_million"] == pytest.approx(2000 / 3600 * 0.036)
