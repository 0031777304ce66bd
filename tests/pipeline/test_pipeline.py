"""The whole road through the real command line: all stages, again, killed and resumed, and a user's mistakes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.runs import COMMANDS, PARTIAL, WORK, read_manifest, sha256

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
    ease: {name: ease, l2: 50, decay: 10}
scores: {k: 20, rollouts: 1, appends: 1, shard_rows: 200}
student: {name: hybrid_cf, dim: 8, hidden: 16}
losses:
  - {name: cross_entropy, weight: 0.1}
  - {name: listwise_kl}
fit: {epochs: 1, batch_size: 128, learning_rate: 0.01, checkpoint_steps: 5}
export: {k: 10, min_overlap: 0.5, min_retention: 0.5, min_tail_retention: 0.0}
benchmark: {resamples: 50, latency_calls: 20, teacher_latency_calls: 3}
"""
MODELS = {
    "teacher": "teacher",
    "student": "student",
    "student_without_distillation": "control",
    "popularity": "baseline",
    "ease": "baseline",
    "student_onnx_fp32": "export",
    "student_onnx_int8": "export",
}
METRICS = {"ndcg@10", "recall@10", "tail_ndcg@10", "tail_recall@10", "coverage@10", "tail_coverage@10", "gini@10"}
PATIENCE = 120  # seconds that a killed stage may take to reach the moment it is killed at


def start(arguments, **where):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    environment.pop("DISTILL_TRACEBACK", None)
    command = [sys.executable, "-m", "distill.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **where
    )


def distill(*arguments, code=0):
    """Runs a command to its end and returns what it printed."""
    process = start(arguments)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    return printed


def kill_when(arguments, ready):
    """Runs a command and kills it, as a machine that fails would, as soon as `ready()`."""
    process = start(arguments)
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def first(config, tmp_path_factory):
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("first")
    printed = distill("run", config, f"run.folder={folder}")
    return folder / "small", printed


@pytest.fixture(scope="module")
def second(config, tmp_path_factory):
    """The same settings in another place, as far as the teacher."""
    folder = tmp_path_factory.mktemp("second")
    for stage in ("prepare", "train-teacher"):
        distill(stage, config, f"run.folder={folder}")
    return folder / "small"


@pytest.fixture(scope="module")
def second_scores(config, second):
    """Scores of the second run, killed once; with the shards that were there and their times of writing."""
    partial = second / f"scores{PARTIAL}"
    command = ("score-teacher", config, f"run.folder={second.parent}")
    kill_when(command, lambda: len(list(partial.glob("shard-*.safetensors"))) >= 10)
    assert not (second / "scores").exists()
    written = {path.name: path.stat().st_mtime_ns for path in partial.glob("shard-*.safetensors")}
    distill(*command)
    return second / "scores", written


@pytest.fixture(scope="module")
def second_student(config, second_scores):
    """The distilled student of the second run, killed after its first checkpoint; with the step it was killed at."""
    run = second_scores[0].parent
    progress = run / f"student{PARTIAL}" / WORK / "fit" / "progress.json"
    command = ("train-student", config, f"run.folder={run.parent}")
    kill_when(command, progress.is_file)
    assert not (run / "student").exists()
    step = json.loads(progress.read_text())["step"]
    distill(*command)
    return run / "student", step


def fingerprint(folder):
    return read_manifest(folder)["fingerprint"]


def test_all_stages_are_there_and_sealed(first):
    run, printed = first
    assert {p.name for p in run.iterdir()} == set(COMMANDS)
    for name in COMMANDS:
        manifest = read_manifest(run / name)
        for file, wanted in manifest["files"].items():
            assert sha256(run / name / file) == wanted
        assert manifest["command"].startswith("distill ")
        assert not (run / name / WORK).exists()
    assert "all stages done" in printed and str(run / "report" / "report.html") in printed.replace("\n", "")
    for stage in COMMANDS:
        assert f"{run / stage}: done in" in printed


def test_again_everything_is_up_to_date(config, first):
    run, _ = first
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    printed = distill("run", config, f"run.folder={run.parent}")
    assert printed.count("up to date") == len(COMMANDS)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_the_report_has_its_fixed_shape(first):
    report = json.loads((first[0] / "report" / "report.json").read_text())
    models = {model["name"]: model for model in report["models"]}
    assert set(MODELS) <= set(models)
    for name, role in MODELS.items():
        model = models[name]
        assert model["role"] == role
        assert set(model["metrics"]) == METRICS == set(model["intervals"])
        for metric, value in model["metrics"].items():
            low, high = model["intervals"][metric]
            assert low <= value + 1e-9 and value <= high + 1e-9 and 0 <= value <= 1, (name, metric)
        assert {"seed", "parameters", "bytes"} <= set(model)
        times = model["latency_ms"]["batch_1"]
        assert 0 < times["p50"] <= times["p90"] and "p99" not in times  # too few calls for a p99
    for metric in ("ndcg@10", "tail_ndcg@10"):
        assert {"retention", "gain", "gap_closed"} <= set(report["distillation"][metric])
    retention = report["distillation"]["ndcg@10"]["retention"]
    assert math.isclose(retention, models["student"]["metrics"]["ndcg@10"] / models["teacher"]["metrics"]["ndcg@10"])
    assert {"passed", "best_baseline"} <= set(report["teacher_gate"])
    assert {"fingerprint", "users", "items", "interactions", "tail"} <= set(report["data"])
    assert report["data"]["fingerprint"] == json.loads((first[0] / "data" / "dataset.json").read_text())["fingerprint"]
    assert report["environment"]["torch"]
    assert report["command"].startswith("distill run ") and f"run.folder={first[0].parent}" in report["command"]


def test_the_report_comes_in_every_format(first):
    for ending in ("html", "md", "csv", "tex", "json"):
        assert (first[0] / "report" / f"report.{ending}").stat().st_size > 500
    html = (first[0] / "report" / "report.html").read_text()
    assert "<svg" in html and not any(f'{kind}="http' in html for kind in ("src", "href"))


def test_the_exported_student_is_the_torch_student(first):
    models = {m["name"]: m for m in json.loads((first[0] / "report" / "report.json").read_text())["models"]}
    torch_, onnx = (models[n]["metrics"]["ndcg@10"] for n in ("student", "student_onnx_fp32"))
    assert abs(torch_ - onnx) < 1e-3


def test_the_student_learned_from_its_teacher(first):
    models = {m["name"]: m for m in json.loads((first[0] / "report" / "report.json").read_text())["models"]}
    ndcg = {name: model["metrics"]["ndcg@10"] for name, model in models.items()}
    assert ndcg["teacher"] > ndcg["popularity"]
    assert ndcg["student"] > ndcg["student_without_distillation"] > ndcg["popularity"]


def test_no_pickle_is_written(first):
    kinds = {path.suffix for path in first[0].rglob("*") if path.is_file()}
    assert not kinds & {".pt", ".pth", ".bin", ".pkl", ".ckpt", ".npy"}


def test_the_same_seed_gives_the_same_teacher(first, second):
    assert fingerprint(second / "data") == fingerprint(first[0] / "data")
    assert fingerprint(second / "teacher") == fingerprint(first[0] / "teacher")


def test_killed_scoring_goes_on_without_scoring_whole_shards_again(first, second_scores):
    folder, written = second_scores
    assert 10 <= len(written) < len(list(folder.glob("shard-*.safetensors")))
    for name, when in written.items():
        assert (folder / name).stat().st_mtime_ns == when, f"{name} was written again"
    assert not list(folder.glob("*.tmp"))
    assert fingerprint(folder) == fingerprint(first[0] / "scores")


def test_a_killed_student_goes_on_to_the_same_weights(first, second_student):
    folder, step = second_student
    curve = read_manifest(folder)["result"]["curve"]
    assert 5 <= step < curve[-1]["step"]
    assert sha256(folder / "model.safetensors") == sha256(first[0] / "student" / "model.safetensors")
    assert curve == read_manifest(first[0] / "student")["result"]["curve"]
    assert fingerprint(folder) == fingerprint(first[0] / "student")


def test_the_control_has_the_same_weights_twice(first, second_student):
    control = "student_without_distillation"
    again = second_student[0].parent / control / "model.safetensors"
    assert sha256(again) == sha256(first[0] / control / "model.safetensors")


@pytest.fixture
def copied(first, tmp_path):
    """A copy of the finished run's data and teacher that a test may spoil."""
    for name in ("data", "teacher"):
        shutil.copytree(first[0] / name, tmp_path / "small" / name)
    return tmp_path / "small"


class TestMistakes:
    """Exit code 2, one message that says what to do, no traceback."""

    @staticmethod
    def refused(*arguments):
        printed = distill(*arguments, code=2)
        assert "Traceback" not in printed and printed.startswith("error: ") and len(printed.splitlines()) <= 3
        return printed

    def test_no_such_config(self):
        assert "There is no config file 'configs/absent.yaml'" in self.refused("run", "configs/absent.yaml")

    def test_unknown_key(self, config):
        assert "Unknown key 'fit.epoch' (did you mean 'epochs'?)" in self.refused("run", config, "fit.epoch=1")

    def test_stage_out_of_order(self, config, tmp_path):
        printed = self.refused("train-teacher", config, f"run.folder={tmp_path}")
        assert f"is not there or not finished. Make it with: distill prepare {config}" in printed

    def test_no_such_data(self, config, tmp_path):
        printed = self.refused("prepare", config, f"run.folder={tmp_path}", f"data.path={tmp_path / 'absent'}")
        assert str(tmp_path / "absent") in printed
        assert not list((tmp_path / "small").glob("data/manifest.json"))

    def test_unknown_backbone(self, config, copied):
        shutil.rmtree(copied / "teacher")
        command = ("train-teacher", config, f"run.folder={copied.parent}")
        printed = distill(*command, "teacher.members.tower.backbone=nobody/no-such-model", code=2)
        assert "Traceback" not in printed and "nobody/no-such-model" in printed

    def test_altered_teacher(self, config, copied):
        path = copied / "teacher" / "ease" / "table.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        printed = self.refused("score-teacher", config, f"run.folder={copied.parent}")
        assert f"{path} is not what its manifest says" in printed and "Rebuild with: distill train-teacher" in printed
