"""The launch files: readable by Accelerate, explained, and named in a command that fits them."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))
EXPECTED = {
    "cpu": ("NO", 1),
    "cpu2": ("MULTI_GPU", 2),
    "ddp": ("MULTI_GPU", 2),
    "zero2": ("DEEPSPEED", 2),
    "zero2_cpu": ("DEEPSPEED", 2),
    "zero3": ("DEEPSPEED", 2),
    "zero3_cpu": ("DEEPSPEED", 2),
}


def test_none_is_missing():
    assert {path.stem for path in FILES} == set(EXPECTED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_launch_file(path):
    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.num_processes) == EXPECTED[path.stem]
    assert config.mixed_precision == "no"  # each training has a precision of its own
    if path.stem.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[4])


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
