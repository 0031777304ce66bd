"""The command line: exit codes, error texts, and that light commands load nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import __version__
from distill.cli import OTHERS, STAGES, guarded, load, main, stage_main
from distill.errors import UserError

ROOT = Path(__file__).parents[2]


def test_help_names_every_command(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in (*STAGES, *OTHERS, "run", "quickstart"):
        assert name in printed


@pytest.mark.parametrize("command", [*STAGES, "run", "quickstart"])
def test_help_of_each_stage(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "KEY=VALUE" in capsys.readouterr().out


@pytest.mark.parametrize("command", OTHERS)
def test_help_of_the_others(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"distill {command}" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"taildistill {__version__}"


def test_an_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["distil"])
    assert stop.value.code == 2
    assert "train-teacher" in capsys.readouterr().err


@pytest.mark.parametrize("command", [*STAGES, "run"])
def test_a_missing_config_exits_with_2(command, tmp_path):
    assert main([command, str(tmp_path / "absent.yaml")]) == 2


@pytest.mark.parametrize("place", [f"{module}:main" for module, _ in STAGES.values()] + [p for p, _ in OTHERS.values()])
def test_every_command_leads_somewhere(place):
    assert callable(load(place))


@pytest.mark.parametrize("stage", [module.partition(".")[2] for module, _ in STAGES.values()])
def test_each_stage_is_a_file_that_can_be_launched(stage):
    assert "stage_main(main)" in (ROOT / "distill" / f"{stage}.py").read_text()


def test_guarded(monkeypatch):
    def wrong():
        raise UserError("no such thing")

    def interrupted():
        raise KeyboardInterrupt

    def fault():
        raise ValueError("a fault of the program keeps its traceback")

    monkeypatch.delenv("DISTILL_TRACEBACK", raising=False)
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3
    assert guarded(wrong) == 2
    assert guarded(interrupted) == 130
    with pytest.raises(ValueError):
        guarded(fault)
    monkeypatch.setenv("DISTILL_TRACEBACK", "1")
    with pytest.raises(UserError):
        guarded(wrong)


def _stage(config):
    """A stage."""
    if config.seed == 9:
        raise UserError("nine is too much")
    return Path("folder")


def test_stage_main_reads_config_and_overrides(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("seed: 1")
    assert stage_main(_stage, [str(path)]) == 0
    assert stage_main(_stage, [str(path), "seed=9"]) == 2
    assert stage_main(_stage, [str(tmp_path / "absent.yaml")]) == 2


@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "absent.yaml"], ["recommend", "--help"]])
def test_light_commands_do_not_load_torch(arguments, tmp_path):
    program = (
        "import sys\nfrom distill.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'onnx'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
