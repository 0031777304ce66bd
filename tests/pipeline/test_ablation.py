"""Controls by one word, other teachers, and the grid of an ablation, through the real command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distill.config import load, load_grid
from distill.data.contexts import Contexts
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.recipes import recipe_of
from distill.rescore import scores_folder
from distill.runs import read_manifest
from distill.soft.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = """\
run: {name: small, tracker: none}
data: {path: demo, min_user_events: 5, min_item_events: 120}
teacher:
  members:
    tower:
      name: text_tower
      backbone: scratch
      max_tokens: 12
      hidden_size: 32
      layers: 1
      vocabulary: 300
      tfidf_width: 16
      batch_size: 32
      max_steps: 2
    space: {name: text_space, vectors: tower, width: 16, epochs: 1}
    ease: {name: ease, l2: 50, decay: 10}
scores: {k: 20, drops: 0, rollouts: 1, appends: 1, hidden: space, tail_samples: 8, temperatures: [1.0, 2.0]}
student: {name: hybrid_cf, dim: 8, hidden: 16}
losses:
  - {name: cross_entropy, weight: 0.1}
  - {name: listwise_kl}
fit: {epochs: 1, batch_size: 256, learning_rate: 0.01, checkpoint_steps: 0}
"""
GRID = """\
students:
  wide: {arguments: {dim: 12}, fit: {learning_rate: 0.005}}
controls: [text_init_only, self_distillation, ease_teacher]
objectives:
  default: {}
  mixed:
    losses:
      - {name: cross_entropy, weight: {start: 1.0, stop: 0.1}}
      - {name: soft_bpr, gate: true}
      - {name: listwise_kl, strata: true, popularity_adjustment: 0.25, balance: true}
      - {name: rce, head: auxiliary}
      - {name: feature_fitnet, weight: 0.01}
      - {name: mutual}
  live:
    losses:
      - {name: listwise_kl, weight: {start: 1.0, stop: 0.2}, tail: ignore}
      - {name: rce, weight: {start: 0.0, stop: 0.5, begin: 0.5}}
    fit: {teacher: live, kinds: [real, rollout]}
seeds: 2
"""


def distill(*arguments, code=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "distill.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run as far as its scores; config file, grid file and the run's folder."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "grid.yaml").write_text(GRID)
    for stage in ("prepare", "train-teacher", "score-teacher"):
        distill(stage, folder / "small.yaml", f"run.folder={folder}")
    return folder


@pytest.fixture(scope="module")
def config(place):
    return load(place / "small.yaml", [f"run.folder={place}"])


@pytest.fixture(scope="module")
def table(place):
    """What the grid gives, and what was printed."""
    printed = distill("ablate", place / "small.yaml", "--grid", place / "grid.yaml", f"run.folder={place}")
    return json.loads((place / "small" / "ablation" / "grid.json").read_text()), printed


def test_every_cell_has_a_line_with_its_seeds(table):
    rows = table[0]["rows"]
    assert [(r["student"], r["row"]) for r in rows] == [
        ("wide", row) for row in ("text_init_only", "self_distillation", "ease_teacher", "default", "mixed", "live")
    ]
    assert all(r["seeds"] == 2 and 0 < r["ndcg@10"] < 1 and r["ndcg@10 sd"] >= 0 for r in rows)
    assert not table[0]["failed"] and "12 of 12 cells" in table[1]


def test_gains_are_over_the_same_student_without_a_teacher(table):
    rows = {(r["student"], r["row"]): r for r in table[0]["rows"]}
    base, ours = rows["wide", "text_init_only"], rows["wide", "default"]
    assert ours["ndcg@10 gain"]["gain"] == pytest.approx(ours["ndcg@10"] / base["ndcg@10"] - 1, abs=1e-3)
    assert ours["ndcg@10 gain"]["low"] < ours["ndcg@10 gain"]["gain"] < ours["ndcg@10 gain"]["high"]
    assert base["ndcg@10 gain"]["gain"] == 0


def test_the_table_comes_as_markdown_and_csv(place, table):
    folder = place / "small" / "ablation"
    text = (folder / "grid.md").read_text()
    assert "| wide | d | default | 2 |" in text and "Regenerate: `distill ablate" in text
    with (folder / "grid.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert float(lines[3]["ndcg@10"]) == pytest.approx(table[0]["rows"][3]["ndcg@10"])


def test_again_nothing_is_trained(place, table):
    before = {p: p.stat().st_mtime_ns for p in (place / "small" / "ablation").rglob("model.safetensors")}
    distill("ablate", place / "small.yaml", "--grid", place / "grid.yaml", f"run.folder={place}")
    assert before == {p: p.stat().st_mtime_ns for p in (place / "small" / "ablation").rglob("model.safetensors")}
    assert len(before) == 12


def test_a_budget_leaves_cells_out_and_says_so(place):
    printed = distill(
        "ablate", place / "small.yaml", "--grid", place / "grid.yaml", f"run.folder={place}", "run.name=small",
        "--minutes", "0.0001", "--seeds", "3",
    )  # fmt: skip
    assert "cells are left out" in printed and "12 of 18 cells" in printed


def test_a_mistake_in_the_grid_is_found_before_anything_is_trained(place):
    for text, words in {
        "controls: [no_kd, nothing]": "unknown control 'nothing'",
        "students: {a: {arguments: {dimension: 3}}}\ncontrols: [no_kd]": "has no setting 'dimension'",
        "students: {a: {}}\nobjectives: {x: {losses: [{name: listwise_kll}]}}": "did you mean 'listwise_kl'",
        "students: {a: {}}": "nothing to train",
        "student: {a: {}}": "did you mean 'students'",
    }.items():
        (place / "wrong.yaml").write_text(text)
        printed = distill("ablate", place / "small.yaml", "--grid", place / "wrong.yaml", f"run.folder={place}", code=2)
        assert words in printed and "Traceback" not in printed


def test_a_control_by_one_word_is_a_student_of_its_own(place):
    distill("train-student", place / "small.yaml", f"run.folder={place}", "control=no_kd")
    manifest = read_manifest(place / "small" / "control-no_kd")
    assert manifest["settings"]["vectors"] is False and "control=no_kd" in manifest["command"]
    assert not (place / "small" / "student").exists()


def test_the_shuffled_teacher_gives_every_answer_to_another_context_of_its_kind(config):
    dataset = Dataset.read(config.folder / "data")
    own = Store.open(config.folder / "scores")
    other = Store.open(scores_folder(config, "shuffled"), dataset.item_vocabulary, dataset.fingerprint)
    contexts = Contexts.read(config.folder / "scores" / "contexts.parquet", dataset.n_items)
    rows = np.arange(own.rows)
    one, two = own.lookup(rows), other.lookup(rows)
    seen = contexts.batch(rows, 1_000_000).seen
    assert not (two["items"][:, :, None] == seen[:, None, :]).any(), "a seen item was taught"
    assert (one["items"][:, 0] != two["items"][:, 0]).mean() > 0.5
    for kind in np.unique(contexts.kind):
        here = contexts.kind == kind
        assert np.allclose(np.sort(one["logz"][here, 0]), np.sort(two["logz"][here, 0]))


def test_a_classic_teacher_answers_the_same_contexts(config):
    own, ease = Store.open(config.folder / "scores"), Store.open(scores_folder(config, "ease"))
    assert own.rows == ease.rows and own.header.teacher != ease.header.teacher
    assert (own.lookup(np.arange(50))["items"] != ease.lookup(np.arange(50))["items"]).any()


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("eas", "did you mean 'ease'"),
        ("lightgcn", "needs training"),
        ("somewhere/else", "nor the folder of a run with a finished teacher"),
    ],
)
def test_an_impossible_teacher_is_refused(config, teacher, words):
    with pytest.raises(UserError, match=words):
        scores_folder(config, teacher)


def test_another_runs_teacher_can_teach(place, config):
    distill("prepare", place / "small.yaml", f"run.folder={place}", "run.name=early")
    distill("train-teacher", place / "small.yaml", f"run.folder={place}", "run.name=early", "seed=5")
    folder = scores_folder(config, str(place / "early"))
    assert Store.open(folder).rows == Store.open(config.folder / "scores").rows
    with pytest.raises(UserError, match="other data"):
        distill("prepare", place / "small.yaml", f"run.folder={place}", "run.name=early", "data.min_item_events=100")
        scores_folder(config, str(place / "early"))


def test_a_member_is_taken_over_when_only_the_fusion_changes(place):
    printed = distill(
        "train-teacher", place / "small.yaml", f"run.folder={place}", "run.name=early2", "teacher.fusion.tilt=0",
        code=2,
    )  # fmt: skip
    assert "distill prepare" in printed  # no data there yet
    distill("prepare", place / "small.yaml", f"run.folder={place}", "run.name=early2")
    distill("train-teacher", place / "small.yaml", f"run.folder={place}", "run.name=early2")
    printed = distill(
        "train-teacher", place / "small.yaml", f"run.folder={place}", "run.name=early2", "teacher.fusion.tilt=0"
    )
    assert "'space': taken over" in printed and "'ease': taken over" in printed
    printed = distill(
        "train-teacher", place / "small.yaml", f"run.folder={place}", "run.name=early2", "teacher.members.ease.l2=70"
    )
    assert "'space': taken over" in printed and "'ease': taken over" not in printed


def test_recipes(config):
    assert recipe_of(config, "text_init_only").name == "student_without_distillation"
    assert not recipe_of(config, "no_kd").use_vectors and not recipe_of(config, "no_kd").taught
    smooth = recipe_of(config, "label_smoothing").losses
    assert smooth[0].arguments["smoothing"] == 0.1
    assert recipe_of(config, "student").teachers == [""]
    assert recipe_of(config, "popularity_teacher").teachers == ["popularity"]


def test_the_bundled_grids_are_right():
    paths = sorted((ROOT / "configs" / "grids").glob("*.yaml"))
    assert paths and all(load_grid(path).students for path in paths)


def test_the_presets_are_right():
    paths = sorted((ROOT / "configs" / "presets").glob("*.yaml"))
    assert {p.stem for p in paths} == {"cf2mf", "cf2ncf", "llm2seq", "llm2cf_tail", "gnn2mlp"}
    for path in paths:
        assert load(path).run.name == path.stem and "When to use it" in path.read_text()


SMALL = ["data.min_item_events=120", "data.min_user_events=5", "scores.k=20", "fit.epochs=1", "control_fit.epochs=1"]
TOWER = [
    "backbone=scratch",
    "max_tokens=12",
    "hidden_size=32",
    "layers=1",
    "vocabulary=300",
    "tfidf_width=16",
    "max_steps=2",
]


@pytest.mark.parametrize("preset", ["cf2mf", "cf2ncf", "llm2seq", "llm2cf_tail", "gnn2mlp"])
def test_a_preset_goes_all_the_way(preset, tmp_path):
    path = ROOT / "configs" / "presets" / f"{preset}.yaml"
    members = load(path).teacher.members
    small = [
        *SMALL,
        f"run.folder={tmp_path}",
        "run.tracker=none",
        "benchmark.resamples=20",
        "benchmark.latency_calls=20",
    ]
    small += ["export.min_overlap=0.3", "export.min_retention=0.3", "export.min_tail_retention=0"]
    if "tower" in members:
        small += [f"teacher.members.tower.{setting}" for setting in TOWER]
        small += ["teacher.members.tower.frozen_layers=0", "teacher.members.space.epochs=1"]
    if "gcn" in members:
        small += ["teacher.members.gcn.epochs=1"]
    printed = distill("run", path, *small)
    assert "all stages done" in printed
    report = json.loads((tmp_path / preset / "report" / "report.json").read_text())
    assert {"teacher", "student", "student_without_distillation", "student_onnx_int8"} <= {
        m["name"] for m in report["models"]
    }
