"""`distill compare` on folders of finished runs: real data, real lists, the real command."""

import json

import numpy as np
import pytest

from distill.compare import LISTS, compare_command, entries_of
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.ranking.cases import cases_of
from distill.runs import seal, write_json


def dataset(users=120, items=30, seed=0):
    """Ten random items a user: seven train, one validation, two test."""
    rng = np.random.default_rng(seed)
    names = [str(item) for item in range(items)]
    chosen = np.concatenate([rng.permutation(items)[:10] for _ in range(users)]).astype(np.int32)
    return Dataset(
        user_ids=np.array([str(user) for user in range(users)]),
        item_ids=np.array(names),
        titles=names,
        texts=names,
        indptr=np.arange(users + 1) * 10,
        items=chosen,
        parts=np.tile(np.array([0] * 7 + [1] + [2] * 2, np.uint8), users),
    )


def lists(cases, luck, seed):
    """Random unseen items, but for a share of the users with their first true item in front."""
    rng = np.random.default_rng(seed)
    ranked = np.empty((len(cases), 10), np.int32)
    for row in range(len(cases)):
        free = np.setdiff1d(np.arange(cases.n_items), np.concatenate([cases.seen[row], cases.truth[row]]))
        ranked[row] = rng.permutation(free)[:10]
        if rng.random() < luck:
            ranked[row, 0] = cases.truth[row][0]
    return ranked


def make_run(folder, data, models):
    """A run folder with data and a report whose models are right for so large a share of the users."""
    (folder / "data").mkdir(parents=True)
    data.write(folder / "data")
    cases = cases_of(data, TEST)
    entries = [
        {"name": name, "role": "export" if "onnx" in name else "student", "metrics": {}, "bytes": 1000, **own}
        for name, (_, own) in models.items()
    ]
    (folder / "report").mkdir()
    write_json(folder / "report" / "report.json", {"models": entries})
    ranked = {name: lists(cases, luck, seed) for seed, (name, (luck, _)) in enumerate(models.items())}
    np.savez_compressed(folder / "report" / LISTS, **ranked)
    seal(folder / "report", "report", {"settings": {}, "inputs": {}}, {}, 1.0, "")
    return folder


def timed(p50):
    return {"latency_ms": {"batch_1": {"p50": p50}}}


@pytest.fixture
def runs(tmp_path):
    data = dataset()
    good = {"student_onnx_fp32": (0.9, timed(0.03)), "student": (0.9, {})}
    bad = {"student_onnx_fp32": (0.1, timed(0.05)), "student": (0.1, {})}
    return make_run(tmp_path / "good", data, good), make_run(tmp_path / "bad", data, bad)


def test_the_better_run_gets_the_other_ones_letter(runs, tmp_path, capsys):
    output = tmp_path / "comparison.json"
    assert compare_command([*map(str, runs), "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["letters"] == {"good": "a", "bad": "b"}
    assert found["models"]["good"]["ndcg@10"]["better_than"] == "b"
    assert found["models"]["bad"]["ndcg@10"]["better_than"] == ""
    assert found["costs"]["good"] == {"p50_ms": 0.03, "bytes": 1000}
    assert 0 < found["not_tested"]["good"]["coverage@10"] <= 1


def test_a_run_against_its_own_copy_has_no_letters(runs, tmp_path):
    (tmp_path / "other").mkdir()
    good = {"student_onnx_fp32": (0.9, timed(0.03))}
    twin = make_run(tmp_path / "other" / "good", dataset(), good)
    entries = entries_of([runs[0], twin], [])
    assert [entry.name for entry in entries] == ["good", str(twin)], "runs of one name are told apart by their folders"
    assert entries[0].evaluation.values == entries[1].evaluation.values
    output = tmp_path / "comparison.json"
    compare_command([str(runs[0]), str(twin), "--output", str(output)])
    rows = json.loads(output.read_text())["models"].values()
    assert all(cell["better_than"] == "" for row in rows for cell in row.values())


def test_several_models_of_each_run(runs):
    names = [entry.name for entry in entries_of(runs, ["student", "student_onnx_fp32"])]
    assert names == ["good/student", "good/student_onnx_fp32", "bad/student", "bad/student_onnx_fp32"]


def test_an_unknown_model_is_refused_with_the_nearest_name(runs):
    with pytest.raises(UserError, match=r"has no model 'studnt'.*student"):
        entries_of(runs, ["studnt"])


def test_runs_on_other_data_are_refused(runs, tmp_path):
    stranger = make_run(tmp_path / "stranger", dataset(seed=1), {"student": (0.5, {})})
    with pytest.raises(UserError, match="only runs on the same prepared data"):
        entries_of([runs[0], stranger], ["student"])


def test_a_run_without_a_report_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match="distill benchmark"):
        entries_of([runs[0], tmp_path / "nothing"], [])


def test_altered_lists_are_refused(runs):
    path = runs[1] / "report" / LISTS
    path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(UserError, match="is not what its manifest says"):
        entries_of(runs, [])
