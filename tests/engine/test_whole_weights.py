"""Launches that split weights are refused for students: by the plug-ins that a launch file makes, and launched."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.utils import DeepSpeedPlugin, DistributedType

from distill.engine.local import Local
from distill.engine.whole import refuse_split_weights
from distill.errors import UserError

ROOT = Path(__file__).parents[2]


def under_deepspeed(**settings):
    """What `accelerator` says in a launch under DeepSpeed, with Accelerate's own plug-in."""
    plugin = DeepSpeedPlugin(**settings)
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin))


def test_zero_3_and_fsdp_are_refused_and_the_message_says_what_to_launch():
    pytest.importorskip("deepspeed")
    with pytest.raises(
        UserError, match=r"student 'mf' can't be trained under DeepSpeed ZeRO-3.*ddp\.yaml.*zero2\.yaml"
    ):
        refuse_split_weights(under_deepspeed(zero_stage=3), "student 'mf'")
    by_file = {"train_batch_size": "auto", "gradient_accumulation_steps": 1, "zero_optimization": {"stage": 3}}
    with pytest.raises(UserError, match="ZeRO-3"):
        refuse_split_weights(under_deepspeed(hf_ds_config=by_file), "student 'mf'")


def test_fsdp_is_refused():
    with pytest.raises(UserError, match=r"under FSDP.*ddp\.yaml"):
        refuse_split_weights(SimpleNamespace(distributed_type=DistributedType.FSDP), "student 'mf'")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_other_stages_and_processes_alone_go_on(stage):
    pytest.importorskip("deepspeed")
    refuse_split_weights(under_deepspeed(zero_stage=stage), "student 'mf'")
    refuse_split_weights(Local(), "student 'mf'")
    refuse_split_weights(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU), "student 'mf'")


@pytest.mark.launch
@pytest.mark.parametrize("launch", ["zero3_cpu", "fsdp_cpu"])
def test_a_launched_train_student_ends_at_once(launch, tmp_path):
    """Nothing is prepared: were the launch not refused first, the error would be that the stages are missing."""
    if launch.startswith("zero"):
        pytest.importorskip("deepspeed")
        if not os.environ.get("TAILDISTILL_TEST_ALL_LAUNCHES"):
            pytest.skip("takes minutes; runs with TAILDISTILL_TEST_ALL_LAUNCHES=1")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / f"{launch}.yaml")]
    command += [str(ROOT / "distill" / "train_student.py"), str(ROOT / "configs" / "tiny.yaml")]
    command += [f"run.folder={tmp_path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "400"}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode != 0
    assert run.stdout.count("can't be trained under") + run.stderr.count("can't be trained under") == 1, run.stderr
    assert not list(tmp_path.rglob("*.partial"))
