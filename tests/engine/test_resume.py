"""A run stopped at any moment and started again ends with the very weights of a run that was never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_job import accuracy, small_job

from distill.engine.checkpoint import PROGRESS
from distill.engine.local import Local
from distill.engine.loop import BEST, fit
from distill.errors import UserError

SETTINGS = {"epochs": 3, "checkpoint_steps": 2, "evaluations_per_epoch": 2}


class Stop(Exception):
    """Stands for any failure in the middle of training."""


def stopper(at: int):
    """Raises when the batch number `at` is read."""
    read = iter(range(10_000))

    def before(rows):
        if next(read) == at:
            raise Stop

    return before


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stops", [[0], [1], [7], [12], [13], [17, 3], [35]])
def test_resumed_run_is_exact(tmp_path, stops, accumulation):
    whole = fit(small_job(**SETTINGS, accumulation=accumulation), Local(), tmp_path / "whole", accuracy, "small")
    for at in stops:
        with pytest.raises(Stop):
            job = small_job(before=stopper(at), **SETTINGS, accumulation=accumulation)
            fit(job, Local(), tmp_path / "cut", accuracy, "small")
    read = []
    job = small_job(before=read.append, **SETTINGS, accumulation=accumulation)
    curve = fit(job, Local(), tmp_path / "cut", accuracy, "small")
    assert curve == whole
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    if stops == [35]:
        assert len(read) <= 4 * accumulation  # it went on; it didn't start over


def test_finished_run_is_not_trained_again(tmp_path):
    curve = fit(small_job(**SETTINGS), Local(), tmp_path, accuracy, "small")
    read = []
    assert fit(small_job(before=read.append, **SETTINGS), Local(), tmp_path, accuracy, "small") == curve
    assert read == []


def test_early_stop_is_remembered(tmp_path):
    settings = SETTINGS | {"patience": 1, "epochs": 9}
    curve = fit(small_job(**settings), Local(), tmp_path, lambda model: 0.0, "small")
    assert len(curve) == 2
    assert fit(small_job(**settings), Local(), tmp_path, lambda model: 0.0, "small") == curve


def test_only_the_newest_checkpoint_is_kept_and_without_pickle(tmp_path):
    fit(small_job(**SETTINGS), Local(), tmp_path, accuracy, "small")
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    newest = json.loads((tmp_path / PROGRESS).read_text())["checkpoint"]
    parts = ("model", "optimizer", "random-0")
    assert files == sorted([BEST, PROGRESS, *(f"{newest}/{part}.safetensors" for part in parts)])


def test_checkpoint_of_another_engine_is_refused(tmp_path):
    fit(small_job(**SETTINGS), Local(), tmp_path, accuracy, "small")
    progress = json.loads((tmp_path / PROGRESS).read_text())
    (tmp_path / PROGRESS).write_text(json.dumps(progress | {"engine": "deepspeed", "processes": 2}))
    with pytest.raises(UserError, match=r"written by 2 process\(es\) of engine 'deepspeed'.*delete"):
        fit(small_job(**SETTINGS), Local(), tmp_path, accuracy, "small")


def test_sigterm_leaves_a_checkpoint_of_the_very_step(tmp_path):
    whole = fit(small_job(**SETTINGS), Local(), tmp_path / "whole", accuracy, "small")
    handler = signal.getsignal(signal.SIGTERM)
    read = iter(range(10_000))

    def before(rows):
        if next(read) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        fit(small_job(before=before, **SETTINGS), Local(), tmp_path / "cut", accuracy, "small")
    assert left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    assert json.loads((tmp_path / "cut" / PROGRESS).read_text())["step"] == 7
    assert fit(small_job(**SETTINGS), Local(), tmp_path / "cut", accuracy, "small") == whole
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from small_job import accuracy, small_job
from distill.engine.local import Local
from distill.engine.loop import fit
read = iter(range(10_000))
def before(rows):
    if next(read) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
fit(small_job(before=before, **{settings!r}), Local(), Path({folder!r}), accuracy, "small")
"""


@pytest.mark.slow
def test_killed_process_resumes_exactly(tmp_path):
    here = Path(__file__).parent
    codes = []
    for at in (20, 10_000):
        program = CHILD.format(
            root=str(here.parents[1]), here=str(here), at=at, settings=SETTINGS, folder=str(tmp_path / "cut")
        )
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        codes.append(subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode)
    assert codes == [-signal.SIGKILL, 0]
    fit(small_job(**SETTINGS), Local(), tmp_path / "whole", accuracy, "small")
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
