"""The stage train-teacher as a program under real launches: train, save, reload."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.ask import quality
from distill.config import Config, load
from distill.data.dataset import VALID, Dataset
from distill.prepare import main as prepare
from distill.ranking.cases import cases_of
from distill.train_teacher import load_teacher, student_vectors

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "tiny.yaml")
NO_DEEPSPEED = importlib.util.find_spec("deepspeed") is None

pytestmark = pytest.mark.launch


def launched(launch: str, folder: Path) -> tuple[Config, str]:
    """Prepares the data, launches distill/train_teacher.py, and returns the run's config and what was printed."""
    config = load(CONFIG, [f"run.folder={folder}", "run.tracker=tensorboard"])
    prepare(config)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / f"{launch}.yaml")]
    command += [str(ROOT / "distill" / "train_teacher.py"), CONFIG, f"run.folder={folder}", "run.tracker=tensorboard"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja, for DeepSpeed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return config, run.stdout


@pytest.fixture(scope="module", params=["cpu2", "zero2_cpu"])
def run(request, tmp_path_factory) -> tuple[Config, str]:
    """A finished teacher of each launch."""
    if request.param.startswith("zero") and NO_DEEPSPEED:
        pytest.skip("deepspeed is not installed (pip install taildistill[deepspeed])")
    return launched(request.param, tmp_path_factory.mktemp(request.param))


def test_the_main_process_alone_writes_and_speaks(run):
    config, printed = run
    assert printed.count("teacher member 'tower'") == 1
    assert (config.folder / "teacher" / "manifest.json").is_file()
    assert list((config.folder / "logs" / "teacher" / "tower").glob("events.*"))


def test_reloaded_teacher_scores_as_it_did_before_saving(run):
    """The figures in fusion.json were measured before the processes ended."""
    config, _ = run
    about = json.loads((config.folder / "teacher" / "fusion.json").read_text())
    teacher = load_teacher(config)
    dataset = Dataset.read(config.folder / "data")
    value = quality(teacher.score, cases_of(dataset, VALID)).values["ndcg@10"]
    assert value == pytest.approx(about["validation"]["teacher"]["ndcg@10"], abs=1e-6)


def test_vectors_for_students_are_whole(run):
    config, _ = run
    vectors = student_vectors(config)
    assert vectors.shape[0] == Dataset.read(config.folder / "data").n_items
    np.testing.assert_allclose(torch.linalg.vector_norm(vectors, dim=1).numpy(), 1.0, atol=1e-5)
