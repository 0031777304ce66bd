"""One tower trained by one process and by each launch file that runs on a CPU: real launches, one result."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from teachers.backbone import scratch_backbone

ROOT = Path(__file__).parents[2]
SETTINGS = {"precision": "fp32", "epochs": 2, "learning_rate": 1e-3, "accumulation": 2, "evaluations_per_epoch": 2}
LAUNCHES = {
    "cpu2": ("cpu2", "MULTI_CPU", 2),
    "multi_node_cpu": ("multi_node_cpu", "MULTI_CPU", 2),
    "fsdp_cpu": ("fsdp_cpu", "FSDP", 2),
    "zero2_cpu": ("zero2_cpu", "DEEPSPEED", 2),
    "zero3_cpu": ("zero3_cpu", "DEEPSPEED", 2),
}
MORE_LAUNCHES = {  # the offload files compile DeepSpeed's optimiser for the CPU when they first start, for minutes
    "cpu": ("cpu", "NO", 1),
    "zero1": ("zero1", "DEEPSPEED", 2),
    "zero2_cpu-alone": ("zero2_cpu", "DEEPSPEED", 1),
    "zero1_offload": ("zero1_offload", "DEEPSPEED", 2),
    "zero2_offload": ("zero2_offload", "DEEPSPEED", 2),
    "zero3_offload": ("zero3_offload", "DEEPSPEED", 2),
}
ASKED = "TAILDISTILL_TEST_ALL_LAUNCHES"
MORE = pytest.mark.skipif(not os.environ.get(ASKED), reason=f"takes minutes; runs with {ASKED}=1")
EVERY_LAUNCH = [*LAUNCHES, *(pytest.param(name, marks=[pytest.mark.slow, MORE]) for name in MORE_LAUNCHES)]
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


def launcher(launch: str, processes: int) -> list[list[str]]:
    """Arguments of Python before the program, one list a machine (several machines are this one, several times)."""
    if not launch:
        return [[]]
    command = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / f"{launch}.yaml")]
    if not launch.startswith("multi_node"):
        return [[*command, "--num_processes", str(processes)]]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    return [[*command, "--machine_rank", rank, *address] for rank in ("0", "1")]


def start(folder: Path, launch: str, settings: dict, fail_at: int = -1, processes: int = 2) -> tuple[int, str]:
    """Runs train_tower.py to its end; returns the exit code (of a machine that failed, if one did) and the output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja, for DeepSpeed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    program = [str(ROOT / "tests" / "launch" / "train_tower.py"), str(folder), json.dumps(settings), str(fail_at)]
    machines = []
    for rank, arguments in enumerate(launcher(launch, processes)):
        with (folder.parent / f"{folder.name}-{rank}.log").open("w") as log:
            command = [sys.executable, *arguments, *program]
            machines.append(subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=log, stderr=log))
    codes = [machine.wait() for machine in machines]
    printed = [(folder.parent / f"{folder.name}-{rank}.log").read_text() for rank in range(len(machines))]
    return max(codes, key=abs), "\n".join(text[-8000:] for text in printed)


def train(folder: Path, launch: str = "", settings: dict | None = None, processes: int = 2) -> Result:
    """What train_tower.py wrote, through the launcher where `launch` names a launch file."""
    code, printed = start(folder, launch, settings or SETTINGS, processes=processes)
    assert code == 0, printed
    read = json.loads((folder / "result.json").read_text())
    return Result(**{name: torch.tensor(v) if name in TENSORS else v for name, v in read.items()})


def skip_without_deepspeed(launch: str) -> None:
    if "zero" in launch and NO_DEEPSPEED:
        pytest.skip("deepspeed is not installed (pip install taildistill[deepspeed])")


TENSORS = ("refreshed", "vectors", "reloaded", "encoded_again")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Result:
    """The run of one process without a launcher."""
    return train(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module", params=EVERY_LAUNCH)
def launched(request, tmp_path_factory) -> tuple[str, Result]:
    """The run of each launch file."""
    file, _, processes = (LAUNCHES | MORE_LAUNCHES)[request.param]
    skip_without_deepspeed(file)
    return request.param, train(tmp_path_factory.mktemp(request.param) / "run", file, processes=processes)


def test_all_processes_take_part(launched):
    name, result = launched
    assert (result.engine, result.processes) == (LAUNCHES | MORE_LAUNCHES)[name][1:]


def test_losses_equal_those_of_one_process(launched, alone):
    """The negatives of all processes count, and gradients are averaged as one process would."""
    _, result = launched
    assert result.losses == pytest.approx(alone.losses, abs=1e-3)
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
@pytest.mark.parametrize("launch", ["cpu2", pytest.param("fsdp_cpu", marks=MORE), "zero2_cpu"])
def test_stopped_launch_resumes_exactly(launch, tmp_path):
    skip_without_deepspeed(launch)
    settings = SETTINGS | {"checkpoint_steps": 2}
    whole = train(tmp_path / "whole", launch, settings)
    code, _ = start(tmp_path / "cut", launch, settings, fail_at=17)
    assert code != 0
    assert (tmp_path / "cut" / "work" / "progress.json").is_file()
    cut = train(tmp_path / "cut", launch, settings)
    assert cut.losses == whole.losses
    assert torch.equal(cut.vectors, whole.vectors)


@pytest.mark.skipif(NO_DEEPSPEED, reason="deepspeed is not installed (pip install taildistill[deepspeed])")
def test_adapters_split_by_zero3_are_saved_whole(tmp_path):
    """Saved as they lie in a process, tensors split by ZeRO-3 would be empty."""
    pytest.importorskip("peft")
    settings = SETTINGS | {"adapter": {"rank": 4}, "epochs": 1, "learning_rate": 1e-2}
    alone = train(tmp_path / "alone", "", settings)
    result = train(tmp_path / "run", "zero3_cpu", settings | {"whole_below": 0})
    assert result.losses == pytest.approx(alone.losses, abs=1e-3)
    assert (result.vectors * alone.vectors).sum(1).min() > 0.999
    kept, expected = (load_file(tmp_path / name / "work" / "best.safetensors") for name in ("run", "alone"))
    assert {name: tensor.shape for name, tensor in kept.items()} == {n: t.shape for n, t in expected.items()}
    assert all(tensor.abs().sum() > 0 for name, tensor in kept.items() if "lora_B" in name)
    saved, single = (load_file(tmp_path / name / "tower" / "model.safetensors") for name in ("run", "alone"))
    assert {name: tensor.shape for name, tensor in saved.items()} == {n: t.shape for n, t in single.items()}
    assert all(tensor.numel() for tensor in saved.values())
    torch.testing.assert_close(result.encoded_again, result.vectors, atol=1e-5, rtol=0)


@pytest.mark.parametrize("launch", ["cpu2", "zero2_cpu"])
def test_next_items_of_all_processes_are_candidates(launch, tmp_path):
    """Histories, and what they must not count as negatives, are exchanged between processes."""
    skip_without_deepspeed(launch)
    settings = SETTINGS | {"epochs": 1, "next_item": 0.5, "history_texts": 10.0, "distance_two": 0.5}
    alone = train(tmp_path / "alone", "", settings)
    result = train(tmp_path / "run", launch, settings)
    assert result.losses == pytest.approx(alone.losses, abs=1e-3)
    assert (result.vectors * alone.vectors).sum(1).min() > 0.999


def test_a_base_in_4_bits_trains_in_two_processes(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    pytest.importorskip("peft")
    words = ["red blue green lamp desk chair paper ink pen soft", "hard cheap large small round steel oak glass"]
    body, tokenizer = scratch_backbone(words, 200, 64, 2, 48, seed=0)
    for part in (body, tokenizer):
        part.save_pretrained(tmp_path / "backbone")
    settings = SETTINGS | {"epochs": 1, "learning_rate": 1e-2, "backbone": str(tmp_path / "backbone")}
    settings |= {"adapter": {"rank": 4, "quantised": True}, "frozen_layers": 1}
    alone = train(tmp_path / "alone", "", settings)
    result = train(tmp_path / "run", "cpu2", settings)
    assert result.losses == pytest.approx(alone.losses, abs=1e-3)
    assert (result.vectors * alone.vectors).sum(1).min() > 0.999
    torch.testing.assert_close(result.encoded_again, result.vectors, atol=1e-5, rtol=0)


def test_diverged_launch_says_so_and_fails(tmp_path):
    code, printed = start(tmp_path / "run", "cpu2", SETTINGS | {"learning_rate": 1e30})
    assert code != 0
    assert "the loss became nan" in printed
    assert "Lower the learning rate" in printed


@MORE
def test_out_of_memory_in_one_process_ends_the_launch(tmp_path):
    """The other process waits for it; the launcher must not."""
    code, printed = start(tmp_path / "run", "cpu2", SETTINGS | {"overflow_rank": 1}, fail_at=3)
    assert code != 0
    assert "tower: out of memory" in printed
    assert "Lower batch_size" in printed


@pytest.mark.slow
@pytest.mark.skipif(NO_DEEPSPEED, reason="deepspeed is not installed (pip install taildistill[deepspeed])")
def test_bf16_under_deepspeed(tmp_path):
    """DeepSpeed holds bf16 weights itself; autocast around it would break."""
    result = train(tmp_path / "run", "zero2_cpu", SETTINGS | {"precision": "bf16"})
    assert result.losses[-1] < result.losses[0] - 0.05
    assert (result.refreshed * result.vectors).sum(1).min() > 0.999
