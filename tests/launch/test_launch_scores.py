"""The stage score-teacher in two processes: the same store, shard by shard, as in one."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.config import from_tree, parse
from distill.prepare import main as prepare
from distill.runs import read_manifest
from distill.score_teacher import main as score_teacher
from distill.train_teacher import main as train_teacher

ROOT = Path(__file__).parents[2]
CONFIG = """\
run: {name: pair, tracker: none}
data: {path: demo, min_user_events: 20, min_item_events: 60}
teacher: {members: {ease: {name: ease, l2: 100}, knn: {name: itemknn}}}
scores: {k: 30, rollouts: 2, appends: 1, mixes: 1, tail_samples: 4, shard_rows: 1000, budget: 0.5, select: diversity}
"""

pytestmark = pytest.mark.launch


def test_two_processes_write_the_same_store_as_one(tmp_path):
    source = tmp_path / "pair.yaml"
    source.write_text(CONFIG)
    tree = parse(CONFIG)
    tree["run"]["folder"] = str(tmp_path)
    config = dataclasses.replace(from_tree(tree), source=str(source))
    prepare(config)
    train_teacher(config)
    score_teacher(config)
    alone = read_manifest(config.folder / "scores")
    (config.folder / "scores").rename(tmp_path / "alone")

    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / "cpu2.yaml")]
    command += [str(ROOT / "distill" / "score_teacher.py"), str(source), f"run.folder={tmp_path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    together = read_manifest(config.folder / "scores")
    assert len([name for name in together["files"] if name.startswith("shard-")]) > 4
    assert together["files"] == alone["files"]
    assert together["result"]["cost"]["contexts"] == alone["result"]["cost"]["contexts"]

    damaged = config.folder / "scores" / "shard-00001.safetensors"
    damaged.unlink()
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert read_manifest(config.folder / "scores")["files"] == alone["files"], "mended by two processes"
