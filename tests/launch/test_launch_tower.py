"""One tower trained by one process, by DDP, and by DeepSpeed ZeRO-2 and ZeRO-3: real launches, one result."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SETTINGS = {"precision": "fp32", "epochs": 2, "learning_rate": 1e-3, "accumulation": 2, "evaluations_per_epoch": 2}
LAUNCHES = {"cpu2": ("MULTI_CPU", 2), "zero2_cpu": ("DEEPSPEED", 2), "zero3_cpu": ("DEEPSPEED", 2)}
NO_DEEPSPEED = importlib.util.find_spec("deepspeed") is None

pytestmark = pytest.mark.launch


@dataclass(frozen=True)
class Result:
    """What train_tower.py wrote."""

    engine: str
    processes: int
    losses: list[float]
    refreshed: torch.Tensor
    vectors: torch.Tensor
    reloaded: torch.Tensor
    encoded_again: torch.Tensor


def train(folder: Path, launch: str = "", settings: dict | None = None, fail_at: int = -1) -> Result | None:
    """Runs train_tower.py, through the launcher where `launch` names a launch file; None where it was made to fail."""
    launcher = []
    if launch:
        launcher = ["-m", "accelerate.commands.accelerate_cli", "launch"]
        launcher += ["--config_file", str(ROOT / "configs" / "accelerate" / f"{launch}.yaml")]
    script = str(ROOT / "tests" / "launch" / "train_tower.py")
    command = [sys.executable, *launcher, script, str(folder), json.dumps(settings or SETTINGS), str(fail_at)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja, for DeepSpeed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)
    if fail_at >= 0:
        assert run.returncode != 0
        return None
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    read = json.loads((folder / "result.json").read_text())
    return Result(**{name: torch.tensor(v) if name in TENSORS else v for name, v in read.items()})


TENSORS = ("refreshed", "vectors", "reloaded", "encoded_again")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Result:
    """The run of one process without a launcher."""
    return train(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module", params=list(LAUNCHES))
def launched(request, tmp_path_factory) -> tuple[str, Result]:
    """The run of each launch file."""
    if request.param.startswith("zero") and NO_DEEPSPEED:
        pytest.skip("deepspeed is not installed (pip install taildistill[deepspeed])")
    return request.param, train(tmp_path_factory.mktemp(request.param) / "run", request.param)


def test_all_processes_take_part(launched):
    name, result = launched
    assert (result.engine, result.processes) == LAUNCHES[name]


def test_losses_equal_those_of_one_process(launched, alone):
    """The negatives of all processes count, and gradients are averaged as one process would."""
    _, result = launched
    assert result.losses == pytest.approx(alone.losses, abs=2e-3)
    assert alone.losses[-1] < alone.losses[0] - 0.05


def test_vectors_equal_those_of_one_process(launched, alone):
    _, result = launched
    assert (result.vectors * alone.vectors).sum(1).min() > 0.999


def test_reloaded_teacher_equals_the_saved_one(launched):
    _, result = launched
    assert torch.equal(result.reloaded, result.vectors)
    torch.testing.assert_close(result.encoded_again, result.vectors, atol=1e-5, rtol=0)


def test_shared_encoding_equals_encoding_alone(launched):
    """All processes together, through the wrapped model, give the vectors that one gives with the saved weights."""
    _, result = launched
    torch.testing.assert_close(result.refreshed, result.vectors, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["cpu2", "zero2_cpu"])
def test_stopped_launch_resumes_exactly(launch, tmp_path):
    if launch.startswith("zero") and NO_DEEPSPEED:
        pytest.skip("deepspeed is not installed (pip install taildistill[deepspeed])")
    settings = SETTINGS | {"checkpoint_steps": 2}
    whole = train(tmp_path / "whole", launch, settings)
    train(tmp_path / "cut", launch, settings, fail_at=17)
    assert (tmp_path / "cut" / "work" / "progress.json").is_file()
    cut = train(tmp_path / "cut", launch, settings)
    assert cut.losses == whole.losses
    assert torch.equal(cut.vectors, whole.vectors)


@pytest.mark.slow
@pytest.mark.skipif(NO_DEEPSPEED, reason="deepspeed is not installed (pip install taildistill[deepspeed])")
def test_bf16_under_deepspeed(tmp_path):
    """DeepSpeed holds bf16 weights itself; autocast around it would break."""
    result = train(tmp_path / "run", "zero2_cpu", SETTINGS | {"precision": "bf16"})
    assert result.losses[-1] < result.losses[0] - 0.05
    assert (result.refreshed * result.vectors).sum(1).min() > 0.999
