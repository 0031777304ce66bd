"""The search for settings: inside its ranges, within its budget, exact after a stop, and better than its start."""

import inspect
import math
import time

import numpy as np
import pytest

from benchmarks.tuning import RANGES, STUDENT_RANGES, WALKS, Range, Trial, best_of, budget_of, propose, search
from distill.plugins import resolve

SPREADS = {"l2": Range(1, 1000, log=True), "alpha": Range(0.0, 1.0), "dim": Range(choices=(8, 16, 32))}
START = {"l2": 1.0, "alpha": 0.0, "dim": 8}
WALK = {"l2": [1.0, 10.0, 100.0]}


def hill(settings):
    """Highest at l2 = 200, alpha = 0.7, dim = 32."""
    return -((math.log10(settings["l2"] / 200)) ** 2) - (settings["alpha"] - 0.7) ** 2 + settings["dim"] / 320


def run(trials, seed=0, done=(), **rest):
    return search(START, SPREADS, WALK, trials, lambda number, s: hill(s), seed, done=done, **rest)


@pytest.mark.parametrize("spread", [*SPREADS.values(), Range(5, 25, whole=True), *STUDENT_RANGES.values()])
def test_draws_stay_in_range(spread):
    rng = np.random.default_rng(0)
    value = spread.draw(rng)
    seen = set()
    for _ in range(300):
        value = spread.near(value, rng) if rng.random() < 0.5 else spread.draw(rng)
        assert value in spread.choices if spread.choices else spread.low <= value <= spread.high
        assert isinstance(value, int) or not spread.whole
        seen.add(value)
    assert len(seen) == len(spread.choices) if spread.choices else len(seen) > 10


def test_it_starts_walks_and_then_draws():
    trials = run(8)
    assert trials[0].settings == START
    assert [t.settings["l2"] for t in trials[:3]] == [1.0, 10.0, 100.0]
    assert all(t.settings["alpha"] == 0.0 for t in trials[:3])
    assert len({t.settings["alpha"] for t in trials[3:]}) > 1
    assert best_of(trials).quality > best_of(trials[:3]).quality


def test_more_trials_find_more_and_the_seed_decides():
    few, many = run(6), run(60)
    assert [t.settings for t in many[:6]] == [t.settings for t in few]
    assert best_of(many).quality > best_of(few).quality and best_of(many).quality > hill(START) + 4
    assert [t.settings for t in run(12, seed=1)] != [t.settings for t in run(12)]


def test_a_stopped_search_goes_on_exactly():
    whole = run(15)
    kept = []
    resumed = run(15, done=whole[:7], keep=lambda trials: kept.append(len(trials)))
    assert [t.settings for t in resumed] == [t.settings for t in whole]
    assert kept == list(range(8, 16))


def test_the_time_limit_counts_what_was_spent_before():
    slow = [Trial(START, 0.0, 100.0)]
    assert run(10, done=slow, seconds=50) == slow
    assert len(search(START, SPREADS, WALK, 10, lambda number, s: time.sleep(0.05) or 0.0, seconds=0.01)) == 1
    assert len(search({}, {}, {}, 10, lambda number, s: 1.0)) == 1, "nothing to tune, one trial"


def test_of_equals_the_first_and_shares_of_the_budget():
    assert best_of([Trial({"x": 1}, 1.0, 0.0), Trial({"x": 2}, 1.0, 0.0)]).settings == {"x": 1}
    assert budget_of("ease", 12) == 12 and budget_of("sasrec", 12) == 4 and budget_of("sasrec", 1) == 1


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_settings_of_the_model_and_hold_its_start(name):
    parameters = inspect.signature(resolve("teacher", name)).parameters
    assert set(RANGES[name]) <= set(parameters) and set(WALKS.get(name, {})) <= set(RANGES[name])
    for key, spread in RANGES[name].items():
        for value in (parameters[key].default, *WALKS.get(name, {}).get(key, [])):
            assert value in spread.choices if spread.choices else spread.low <= value <= spread.high, (key, value)
        assert spread.words()


def test_proposals_depend_on_the_trials_alone():
    trials = run(9)
    again = [propose(trials[:n], START, SPREADS, WALK, 0) for n in range(9)]
    assert again == [t.settings for t in trials]
