"""Engines in processes of their own: pinned, measured, mistakes told; the machine; who asks; padded bundles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency.client import Worker
from benchmarks.latency.machine import background_load, describe_machine, memory_bandwidth, resident_bytes
from benchmarks.latency.matrix import Subject, open_loop, opened, pinned, single_stream
from benchmarks.latency.padded import more_rows
from benchmarks.latency.streams import read_histories, request_rows, write_histories
from benchmarks.report.latency_tables import bounded, sheets
from distill.config.benchmark import Latency
from distill.errors import UserError
from distill.serving.runtime import Bundle

ROOT = Path(__file__).parents[2]
WAIT = "benchmarks.latency.engines:open_wait"
SETTINGS = Latency(calls=60, warmup=5, seconds=0.4, loads=[0.5], batches=[1, 4], catalogues=[], streams=["uniform"])


def waiting(name="wait", **arguments):
    return Subject(name, "a known wait", WAIT, {"seconds": 0.002, **arguments}, catalogue=10)


def test_a_known_wait_in_a_process_of_its_own_is_reported_right():
    subject = waiting()
    with opened([subject]) as (workers, skipped):
        (row,) = single_stream({"wait": (subject, workers["wait"])}, "uniform", SETTINGS)
        (loaded,) = open_loop(subject, workers["wait"], row["mean"], SETTINGS)
    assert not skipped and row["calls"] == 60
    assert row["min"] == pytest.approx(2.0, rel=0.05)
    assert row["first"] >= 2.0 and row["resident_bytes"] > 1e6 and row["cpu_seconds_per_million"] > 0
    assert loaded["load"] == 0.5 and loaded["min"] >= 2.0 and loaded["per_second"] == pytest.approx(500 / row["mean"])


def test_a_stall_in_the_process_counts_for_those_who_wait_behind_it():
    subject = waiting(stall_at=30, stall_seconds=0.1)
    with Worker(subject.factory, dict(subject.arguments), pinned(1)) as worker:
        reply = worker.ask("open_loop", stream="uniform", rate=200, calls=80, seed=0)
    assert max(reply["work"]) >= 100e6 and sum(w > 50e6 for w in reply["work"]) == 1
    assert sum(latency > 50e6 for latency in reply["nanoseconds"]) > 3


def test_the_process_is_another_one_and_pinned(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    with Worker(WAIT, {"seconds": 0.0}, cores[-1:]) as worker:
        worker.opened()
        assert worker.process.pid != os.getpid()
        assert os.sched_getaffinity(worker.process.pid) == {cores[-1]}
    assert worker.process.returncode == 0


def test_an_engine_that_cannot_be_opened_is_left_out_with_its_reason():
    arguments = {"folder": "nowhere", "variant": "fp32", "histories": "nowhere", "k": 1, "threads": 1}
    missing = Subject("no", "", "benchmarks.latency.engines:open_bundle", arguments, 1)
    broken = Subject("broken", "", "no_such_module:f", {}, 1)
    with opened([missing, waiting(), broken]) as (workers, skipped):
        assert set(workers) == {"wait"}
    assert "holds no bundle" in skipped["no"] and "no_such_module" in skipped["broken"]


def test_an_engine_that_answers_one_at_a_time_says_so_when_asked_for_batches():
    with Worker(WAIT, {"seconds": 0.0}, pinned(1)) as worker, pytest.raises(UserError, match="one request at a time"):
        worker.ask("offline", stream="uniform", batch=4, seconds=0.1)


def test_streams_are_seeded_and_zipf_has_favourites():
    flat, steep = (request_rows(stream, 100, 20_000, 3) for stream in ("uniform", "zipf"))
    shares = [np.sort(np.bincount(rows, minlength=100))[::-1] / 20_000 for rows in (flat, steep)]
    assert shares[0][0] < 0.02
    assert shares[1][0] == pytest.approx(1 / (1 / np.arange(1, 101)).sum(), rel=0.1)
    assert np.array_equal(steep, request_rows("zipf", 100, 20_000, 3))
    assert not np.array_equal(steep, request_rows("zipf", 100, 20_000, 4))
    with pytest.raises(UserError, match="uniform or zipf"):
        request_rows("pareto", 10, 10, 0)


def test_histories_come_back_as_they_were(tmp_path):
    rows = [np.array([3, 1, 2]), np.array([], np.int64), np.array([7])]
    write_histories(tmp_path / "h.npz", rows)
    assert [row.tolist() for row in read_histories(tmp_path / "h.npz")] == [[3, 1, 2], [], [7]]


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["processor"] and 0 <= machine["background_load"] <= 1
    assert machine["reliable"] == (machine["background_load"] <= 0.1)
    assert 1e8 < memory_bandwidth(16, 2) < 1e13 and resident_bytes() > 1e7


def test_background_load_sees_a_busy_neighbour():
    count = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        assert background_load(0.5) > 0.5
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_synthetic_rows_are_like_the_real_ones():
    rng = np.random.default_rng(0)
    real = (rng.standard_normal((500, 8)) * [1, 2, 3, 4, 1, 1, 1, 1] + 5).astype(np.float32)
    made = more_rows(real, 4000, rng)
    assert made.dtype == np.float32 and made.shape == (4000, 8)
    assert np.allclose(made.mean(0), real.mean(0), rtol=0.05)
    lengths, own = (np.linalg.norm(rows, axis=1) for rows in (made, real))
    assert np.abs(lengths[:, None] - own).min(1).max() < 1e-3, "lengths are those of real rows"
    small = more_rows(rng.integers(-127, 128, (100, 8)).astype(np.int8), 50, rng)
    assert small.dtype == np.int8


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A small bundle and its copy with 300 items."""
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    from small_bundle import write_small_bundle

    folder = tmp_path_factory.mktemp("bundles")
    write_small_bundle(folder / "small", n_items=40)
    command = [sys.executable, "-m", "benchmarks.latency.padded", str(folder / "small"), str(folder / "big"), "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_padded_bundle_ranks_the_real_items_as_before(padded):
    for variant in ("fp32", "int8"):
        small, big = Bundle.open(padded / "small", variant), Bundle.open(padded / "big", variant)
        assert big.n_items == 300 and big.items.titles[299].startswith("synthetic")
        for history in ([1], [3, 9, 27], list(range(20))):
            before, scores = small.recommend_one(history, 40)
            after, padded_scores = big.recommend_one(history, 300)
            kept = [item for item in after if 0 <= item < 40]
            assert kept == [item for item in before if item >= 0], "synthetic items only come between the real ones"
            own = dict(zip(after.tolist(), padded_scores.tolist(), strict=True))
            assert all(own[i] == pytest.approx(s, abs=1e-4) for i, s in zip(before, scores, strict=True) if i >= 0)
        batch, _ = big.recommend([[1], [3, 9, 27]], 10)
        assert batch[1].tolist() == big.recommend_one([3, 9, 27], 10)[0].tolist()


def test_a_catalogue_cannot_be_padded_to_fewer_items(padded, tmp_path):
    command = [sys.executable, "-m", "benchmarks.latency.padded", str(padded / "small"), str(tmp_path), "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "has 40 items already" in done.stderr


def test_an_exported_bundle_is_measured_through_the_serving_runtime(padded, tmp_path):
    write_histories(tmp_path / "h.npz", [np.array([1, 2]), np.array([5])])
    arguments = {
        "folder": str(padded / "small"),
        "variant": "fp32",
        "threads": 1,
        "histories": str(tmp_path / "h.npz"),
        "k": 5,
    }
    with Worker("benchmarks.latency.engines:open_bundle", arguments, pinned(1)) as worker:
        assert worker.opened()["rows"] == 2
        assert worker.ask("warm", calls=3, seconds=1)["warmup"] == 3
        reply = worker.ask("offline", stream="zipf", batch=4, seconds=0.05)
    assert len(reply["nanoseconds"]) >= 3 and reply["cpu_seconds"] > 0


def test_the_rate_at_a_p99_bound_is_the_highest_that_kept_it():
    rows = [
        {"engine": "a", "scenario": "open_loop", "per_second": 500.0, "p99": 2.0},
        {"engine": "a", "scenario": "open_loop", "per_second": 700.0, "p99": 9.0},
        {"engine": "a", "scenario": "open_loop", "per_second": 900.0, "p99": 30.0},
    ]
    assert bounded(rows, {"engine": "a"}, 10.0) == "700"
    assert bounded(rows, {"engine": "a"}, 1.0) == "none"
    assert bounded(rows, {"engine": "b"}, 10.0) == "–"


def test_the_tables_hold_every_row_once():
    from sample_report import sample_latency

    found = sample_latency()
    assert json.loads(json.dumps(found)) == found
    made = {sheet.caption.split(":")[0].split(",")[0]: len(sheet.rows) for sheet in sheets(found)}
    assert made["Open loop"] == 2 and made["Offline"] == 1 and made["Who asks"] == 2
    assert all(len(row) == len(sheet.header) for sheet in sheets(found) for row in sheet.rows)
