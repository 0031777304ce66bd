import time

import numpy as np
import pytest
import torch

from benchmarks.latency import ROUNDS, measure, measure_interleaved, summary


def waiter(seconds):
    def call(number):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


def test_a_known_wait_is_measured():
    figures = measure(waiter(0.001), calls=50, warmup=5)
    assert set(figures) == {"first", "min", "p50", "p90", "p99", "mean", "calls"}
    assert figures["calls"] == 50
    assert 1.0 <= figures["min"] < 1.2
    assert figures["min"] <= figures["p50"] <= figures["p90"] <= figures["p99"]


def test_the_slower_model_is_slower_by_the_right_factor():
    figures = measure_interleaved({"a": waiter(0.0005), "b": waiter(0.002)}, {"a": 100, "b": 40}, warmup=3)
    assert figures["a"]["calls"] == 100 and figures["b"]["calls"] == 40
    assert figures["b"]["min"] / figures["a"]["min"] == pytest.approx(4, rel=0.1)


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

    figures = measure(call, calls=20, warmup=2)
    assert figures["first"] >= 20 and figures["p99"] < 20


def test_a_slow_model_is_not_warmed_for_minutes():
    begin = time.perf_counter()
    measure(waiter(0.3), calls=2, warmup=1000)
    assert time.perf_counter() - begin < 6


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
    figures = summary(np.arange(1, 101) * 1_000_000, first=5_000_000)
    assert figures["p50"] == pytest.approx(50.5) and figures["first"] == 5 and figures["mean"] == pytest.approx(50.5)
    assert figures["min"] == 1 and figures["calls"] == 100
