"""The comparison of students with other libraries: equal trials, one evaluator, lists through files."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import peer_lists
from benchmarks.peers.own_lists import FIT, refit, train, usual
from benchmarks.peers.student_settings import FAMILIES, OURS, PEERS
from benchmarks.peers.student_table import markdown, versus, write
from benchmarks.peers.students import SCRIPT, Bench, measured, through_file
from distill.contracts.worlds import checkerboard
from distill.data.dataset import FILE_ORDER, ORDER, TEST, VALID, Dataset
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import evaluate, rank_array


def board() -> Dataset:
    """A checkerboard whose last event is test and the one before validation."""
    made = checkerboard(n_users=60, events=9)
    parts = made.parts.copy()
    parts[made.indptr[1:] - 1], parts[made.indptr[1:] - 2] = TEST, VALID
    return dataclasses.replace(made, parts=parts)


def bench_of(folder: Path, **changes: object) -> Bench:
    """A bench over the board; libraries are taken from this environment."""
    chosen = argparse.Namespace(seed=0, seconds=20.0, trials=2, cached=False, environments=folder, only=[])
    vars(chosen).update(changes)
    return Bench("board", board(), folder, chosen)


def events_file(folder: Path, dataset: Dataset) -> Path:
    """The file that jobs read."""
    file = folder / "events.npz"
    sizes = {"n_users": dataset.n_users, "n_items": dataset.n_items}
    np.savez(file, users=dataset.event_users(), items=dataset.items, parts=dataset.parts, **sizes)
    return file


def test_every_model_has_the_same_number_of_settings_and_every_student_a_rival():
    assert {len(settings) for settings in [*OURS.values(), *PEERS.values()]} == {4}
    assert set(FAMILIES) == set(OURS)
    known = {model for _, model in PEERS}
    assert all(set(family) <= known for family in FAMILIES.values())


def test_the_peers_side_ranks_and_judges_as_the_evaluator_does(tmp_path):
    dataset = board()
    table = np.random.default_rng(0).random((dataset.n_users, dataset.n_items)).astype(np.float32)
    for upto, part in ((0, VALID), (1, TEST)):
        events = peer_lists.Events({"events": str(events_file(tmp_path, dataset)), "upto": upto})
        ranked, cases = events.ranked(lambda users: table[users], step=7), cases_of(dataset, part)
        assert np.array_equal(ranked[cases.users], rank_array(table[cases.users], cases, 10))
        ours = evaluate(ranked[cases.users], cases, ["ndcg@10"]).values["ndcg@10"]
        assert events.ndcg(ranked) == pytest.approx(ours, abs=1e-12)


def test_items_of_the_history_leave_a_list_and_the_others_move_up(tmp_path):
    dataset = board()
    events = peer_lists.Events({"events": str(events_file(tmp_path, dataset)), "upto": 0})
    had = events.histories()
    lists = np.stack([[had[user][0], *np.setdiff1d(np.arange(24), had[user])[:8], -1] for user in range(60)])
    kept = events.unseen(lists)
    assert np.array_equal(kept[:, :8], lists[:, 1:9])
    assert (kept[:, 8:] == -1).all()


def test_no_event_behind_the_trained_part_reaches_a_peer(tmp_path):
    dataset = board()
    for upto in (0, 1):
        events = peer_lists.Events({"events": str(events_file(tmp_path, dataset)), "upto": upto})
        assert len(events.items) == (dataset.parts <= upto).sum()
        assert events.matrix().nnz == len(events.items)
        folder = tmp_path / str(upto)
        folder.mkdir()
        peer_lists.write_atomic_files(events, folder, ordered=False)
        written = {
            part: (folder / "events" / f"events.{part}.inter").read_text().splitlines()[1:]
            for part in ("train", "valid", "test")
        }
        assert len(written["train"]) == len(events.items)
        assert written["valid"] == written["test"] == written["train"][:1]


@pytest.mark.parametrize(("name", "arguments"), [("mf", {"dim": 16}), ("ease", {"l2": 10.0})])
def test_our_side_learns_and_is_fitted_again_on_all_events_before_test(name, arguments):
    dataset = board()
    settings = dataclasses.replace(FIT, batch_size=64, epochs=20, learning_rate=0.02, windows=4)
    done = train(dataset, name, arguments, settings, seed=0, seconds=20.0)
    assert done["validation"] > 0.2
    cases = cases_of(dataset, TEST)
    lists = refit(dataset, name, arguments, settings, 0, done["epoch"])["test"]
    assert lists.shape == (len(cases), 10)
    assert share_of_own(lists[:, :3], cases.users, dataset.n_items) > 0.95


def test_a_second_fit_sees_validation_events_and_ends_with_its_epoch():
    dataset = board()
    late, eager = dataset.n_items, 50  # one more item, which all but ten users chose in validation
    chosen = (dataset.parts == VALID) & (dataset.event_users() < eager)
    items = np.where(chosen, late, dataset.items).astype(np.int32)
    names = [*dataset.titles, "late"]
    more = dataclasses.replace(dataset, items=items, item_ids=np.array(names), titles=names, texts=names)
    settings = dataclasses.replace(FIT, batch_size=64, epochs=9, learning_rate=0.02, windows=4)
    lists = refit(more, "popularity", {}, settings, 0, 0)["test"]
    assert (lists[eager:, 0] == late).all()
    assert not (lists[:eager] == late).any()
    first, third = (refit(dataset, "mf", {"dim": 16}, settings, 0, epoch)["test"] for epoch in (1, 3))
    assert not np.array_equal(first, third)
    assert np.array_equal(third, refit(dataset, "mf", {"dim": 16}, settings, 0, 3)["test"])


def share_of_own(lists: np.ndarray, users: np.ndarray, n_items: int) -> float:
    """Share of listed items that are of the user's half."""
    return float(((lists >= n_items // 2) == (users % 2 == 1)[:, None]).mean())


def test_a_training_ends_when_its_seconds_are_used_and_keeps_an_epoch():
    done = train(board(), "mf", {"dim": 8}, FIT, seed=0, seconds=0.0)
    assert done["epoch"] == 1
    assert np.isfinite(done["validation"])


def test_lists_come_back_from_a_file_as_they_were():
    dataset = board()
    cases = cases_of(dataset, TEST)
    lists = rank_array(np.random.default_rng(1).random((len(cases), dataset.n_items)), cases, 10)
    lists[3, 7:] = -1
    assert np.array_equal(through_file(lists, dataset, cases), lists)


def test_trials_are_kept_and_a_missing_library_is_said(tmp_path, capsys):
    row = measured(bench_of(tmp_path), "ease")
    assert row is not None
    assert row["trials"] == 2
    assert measured(bench_of(tmp_path, cached=True), "ease") == row
    assert measured(bench_of(tmp_path, cached=True), "itemknn") is None
    (tmp_path / "libraries" / "bin").mkdir(parents=True)
    bare = tmp_path / "libraries" / "bin" / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # a Python without packages
    bare.chmod(0o755)
    assert measured(bench_of(tmp_path), "implicit:Cosine") is None
    assert "implicit:Cosine failed: ModuleNotFoundError" in capsys.readouterr().err


def test_a_peer_runs_as_a_process_of_its_own(tmp_path):
    pytest.importorskip("implicit")
    dataset = board()
    job = {"library": "implicit", "model": "Cosine", "settings": {"K": 10}, "upto": 1, "epochs": 0, "seed": 0}
    job |= {"events": str(events_file(tmp_path, dataset)), "output": str(tmp_path / "out.npz")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run([sys.executable, SCRIPT, tmp_path / "job.json"], check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as file:
        ranked = file["ranked"]
    cases = cases_of(dataset, TEST)
    assert share_of_own(ranked[cases.users][:, :3], cases.users, dataset.n_items) == 1.0


def test_the_table_holds_each_student_against_the_best_of_its_family(tmp_path):
    def row(library: str, model: str, value: float) -> dict:
        figures = dict.fromkeys(("validation", "recall@10", "tail_ndcg@10", "coverage@10", "low", "high"), 0.1)
        about = {"data": "board", "library": library, "model": model, "trials": 4, "limit": 9.0, "settings": {"k": 1}}
        return {**about, **figures, "ndcg@10": value, "epoch": 0, "seconds": 1.0}

    rows = [row("taildistill", "mf", 0.2), row("implicit", "BPR", 0.1), row("implicit", "ALS", 0.25)]
    rows += [row("recbole", "EASE", 0.9)]
    assert [(student["model"], peer["model"]) for student, peer in versus(rows)] == [("mf", "ALS")]
    assert "| `mf` | 0.2000 | implicit `ALS` | 0.2500 | 0.800 |" in markdown(rows)
    write(rows, {"trials": 4}, tmp_path / "made" / "table")
    assert json.loads((tmp_path / "made" / "table.json").read_text())["rows"] == rows
    assert len((tmp_path / "made" / "table.csv").read_text().splitlines()) == 5
    again = [row("taildistill", "mf", 0.3), row("taildistill", "neumf", 0.1)]
    write(again, {"trials": 2}, tmp_path / "made" / "table")
    kept = json.loads((tmp_path / "made" / "table.json").read_text())["rows"]
    assert kept == [*rows[1:], *again], "what was measured anew replaces, the rest stays"


def test_data_without_an_order_are_read_as_sets():
    ordered, bare = board(), dataclasses.replace(board(), summary={ORDER: FILE_ORDER})
    assert usual(ordered, "mf")[0].order == "given"
    assert usual(bare, "mf")[0].order == "halves" and usual(bare, "mf")[1]["decays"][0] >= 1000
    assert usual(bare, "neumf")[0].order == "shuffled" and usual(bare, "ease")[1]["decay"] >= 1000
    settings, asked = usual(bare, "mf")
    settings = dataclasses.replace(settings, batch_size=64, epochs=20, learning_rate=0.02)
    done = train(bare, "mf", {"dim": 16, **asked}, settings, seed=0, seconds=20.0)
    lists = refit(bare, "mf", {"dim": 16, **asked}, settings, 0, done["epoch"])["test"]
    assert share_of_own(lists[:, :3], cases_of(bare, TEST).users, bare.n_items) > 0.95
