"""What asking a teacher takes: rows that are tried, seconds, a price."""

import time

import numpy as np
import pytest

from distill.soft.cost import PROBE, RUN, bill, estimated_seconds, in_words, probe_rows


def test_rows_are_tried_in_runs_spread_over_all():
    asked = np.arange(0, 200_000, 2)
    runs = probe_rows(asked)
    assert sum(map(len, runs)) == PROBE and all(len(run) == RUN for run in runs)
    assert runs[0][0] == 0 and runs[-1][-1] == asked[-1]
    assert all((np.diff(run) == 2).all() for run in runs)
    assert [run.tolist() for run in probe_rows(np.arange(5))] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_estimate_is_the_time_of_a_row_times_the_rows(processes):
    found = estimated_seconds(lambda rows: time.sleep(2e-4 * len(rows)), np.arange(10_000), 50_000, processes)
    assert found == pytest.approx(10 / processes, rel=0.5)


def test_a_price_is_said_only_where_there_is_one():
    assert in_words(12_000, 360, 0.0) == "asking the teacher about 12,000 contexts: estimated time 360.0 s"
    assert in_words(12_000, 360, 2.5).endswith("360.0 s, cost 0.25")
    assert "price" not in bill(10, 5, 3.14159, "uniform", 0.0)
    assert bill(10, 5, 1800, "uniform", 3.0) == {
        "contexts": 10, "contexts_in_this_run": 5, "seconds": 1800, "select": "uniform", "price": 1.5,
    }  # fmt: skip
