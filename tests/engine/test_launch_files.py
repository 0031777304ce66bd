"""The launch files: readable by Accelerate, explained, and named in a command that fits them."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
EXPECTED = {
    "cpu": ("NO", 1),
    "cpu2": ("MULTI_GPU", 2),
    "ddp": ("MULTI_GPU", 2),
    "fsdp": ("FSDP", 2),
    "fsdp_cpu": ("FSDP", 2),
    "fsdp_offload": ("FSDP", 2),
    "multi_node": ("MULTI_GPU", 16),
    "multi_node_cpu": ("MULTI_GPU", 2),
    "multi_node_zero3": ("DEEPSPEED", 16),
    "zero1": ("DEEPSPEED", 2),
    "zero1_offload": ("DEEPSPEED", 2),
    "zero2": ("DEEPSPEED", 2),
    "zero2_cpu": ("DEEPSPEED", 2),
    "zero2_offload": ("DEEPSPEED", 2),
    "zero3": ("DEEPSPEED", 2),
    "zero3_cpu": ("DEEPSPEED", 2),
    "zero3_offload": ("DEEPSPEED", 2),
}
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}


def test_none_is_missing():
    assert {path.stem for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_launch_file(path):
    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.num_processes) == EXPECTED[path.stem]
    assert config.mixed_precision == "no"  # each training has a precision of its own
    several = path.stem.startswith("multi_node")
    assert (config.num_machines > 1) == several
    if several:
        assert config.main_process_port
        assert config.num_processes % config.num_machines == 0


@pytest.mark.parametrize("path", [p for p in FILES if "zero" in p.stem], ids=lambda path: path.stem)
def test_deepspeed_file_says_what_its_name_says(path):
    config = load_config_from_file(str(path))
    settings = config.deepspeed_config
    stage = settings["zero_stage"]
    assert stage == next(STAGES[name] for name in STAGES if name in path.stem)
    away = "cpu" if path.stem.endswith("offload") else "none"
    assert settings["offload_optimizer_device"] == away
    assert settings["offload_param_device"] == (away if stage == 3 else "none")
    assert (stage == 3) == bool(settings.get("zero3_save_16bit_model"))
    assert config.use_cpu is False  # with true Accelerate switches DeepSpeed off
    if config.num_machines > 1:
        assert settings["deepspeed_multinode_launcher"] == "standard"  # the others need pdsh or MPI


@pytest.mark.parametrize("path", [p for p in FILES if "fsdp" in p.stem], ids=lambda path: path.stem)
def test_fsdp_file_makes_the_plugin_that_its_name_says(path, monkeypatch):
    """Passed on as the launcher does, by environment variables."""
    settings = load_config_from_file(str(path)).fsdp_config
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert (type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy") == path.stem.endswith("offload")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_launch_file_says_what_it_is_for_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    comments = [line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    assert len(comments) >= 2
    command = next(line for line in comments if "accelerate launch" in line)
    assert f"configs/accelerate/{path.name}" in command
    script, config = command.split()[-2:]
    assert (FOLDER.parents[1] / script).is_file()
    assert (FOLDER.parents[1] / config).is_file()
