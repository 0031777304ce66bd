"""The stage train-student on students that are solved, propagated over a graph, or trained on halves."""

import json

import pytest
from safetensors.torch import load_file

from distill.config import load
from distill.prepare import main as prepare
from distill.recipes import CONTROL, STUDENT
from distill.runs import read_manifest
from distill.train_student import main as train_student
from distill.train_teacher import main as train_teacher

CONFIG = """
run: {{name: small, folder: {runs}, tracker: none}}
data: {{path: demo, min_user_events: 5, min_item_events: 120}}
teacher: {{members: {{popularity: {{name: popularity}}}}}}
control_fit: {{epochs: 1, batch_size: 1024, learning_rate: 0.02, max_length: 20}}
fit: {{max_length: 20}}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("solved")
    path = root / "small.yaml"
    path.write_text(CONFIG.format(runs=root / "runs"))
    config = load(str(path), [])
    prepare(config)
    train_teacher(config)
    return str(path)


def test_a_student_in_closed_form_needs_no_scores_and_is_solved_once(settings, capsys, monkeypatch):
    from students.closed_form import Ease

    solved = []
    plain = Ease.fit_closed_form
    monkeypatch.setattr(Ease, "fit_closed_form", lambda *given: (solved.append(1), plain(*given)))
    config = load(settings, ["student={name: ease, l2: 50, neighbours: 20}"])
    folder = train_student(config)
    assert folder.name == STUDENT and len(solved) == 1
    assert "'student_without_distillation' is the same model" in " ".join(capsys.readouterr().out.split())
    found = {name: read_manifest(config.folder / name)["result"] for name in (STUDENT, CONTROL)}
    assert found[STUDENT] == found[CONTROL]
    assert found[STUDENT]["closed_form"] and found[STUDENT]["validation"]["ndcg@10"] > 0.05
    ours, theirs = (load_file(config.folder / name / "model.safetensors") for name in (STUDENT, CONTROL))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    changed = load(settings, ["student={name: ease, l2: 50, neighbours: 20}", "losses=[{name: bpr}]"])
    train_student(changed)
    assert len(solved) == 1, "losses are not part of it"


def test_a_propagated_student_is_saved_as_plain_tables(settings):
    config = load(settings, ["student={name: lightgcn, dim: 8}", "control=text_init_only"])
    folder = train_student(config)
    about = json.loads((folder / "student.json").read_text())
    weights = load_file(folder / "model.safetensors")
    assert about["name"] == "lightgcn" and not (folder / "item_vectors.safetensors").exists()
    assert weights["inputs.table.identity"].shape == (about["n_items"], 8)


def test_a_student_is_trained_on_halves(settings):
    given = ["student={name: mf, dim: 8, decays: [10000]}", "control=no_kd", "control_fit.order=halves"]
    config = load(settings, [*given, "control_fit.epochs=4", "benchmark.seeds=1"])
    found = read_manifest(train_student(config))["result"]
    assert found["validation"]["ndcg@10"] > 0.1 and len(found["curve"]) == 4
