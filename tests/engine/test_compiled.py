"""torch.compile in training: what is asked for without a compiler, and the same losses and resumes as without it."""

import json

import numpy as np
import pytest
import torch
import torch._inductor.config  # reads CXX when it is imported, so before a test changes that
from safetensors.torch import load_file

from distill.config import Loss
from distill.data.contexts import Kind, prefixes
from distill.data.ragged import Lists
from distill.engine.checkpoint import PROGRESS
from distill.engine.compiled import compile_errors_said, require_compiler
from distill.engine.local import Local
from distill.engine.loop import BEST, fit
from distill.errors import UserError
from distill.job import Job
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.tensors import next_item_batch
from students.checkpoint import build_student

N, USERS, LENGTH = 30, 12, 6


def test_without_a_compiler_the_error_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"'no-such-compiler' \(from CXX\) isn't there.*g\+\+.*fit\.compile=false"):
        require_compiler()
    with pytest.raises(UserError, match="no-such-compiler"):
        fit(job(compile=True), Local(), tmp_path, None, "student")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"'g\+\+' \(from PATH\) isn't there"):
        require_compiler()


def test_without_headers_of_python_the_error_names_them(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CXX", "sh")  # any program that is there
    with pytest.raises(UserError, match=r"Python\.h isn't there.*python3-dev"):
        require_compiler()


def test_a_failed_compilation_is_told_and_other_errors_are_left_alone():
    from torch._dynamo.exc import TorchDynamoException

    told = pytest.raises(UserError, match=r"student: torch\.compile failed \(no can do\).*fit\.compile=false")
    with told, compile_errors_said(True, "student"):
        raise TorchDynamoException("\nbackend='inductor' raised:\nno can do\nand more")
    with pytest.raises(RuntimeError, match="else"), compile_errors_said(True, "student"):
        raise RuntimeError("something else")
    with pytest.raises(TorchDynamoException), compile_errors_said(False, "student"):
        raise TorchDynamoException("nothing was compiled")


def job(compile=False, before=lambda rows: None):
    """Training of a tiny student on histories of several lengths, in batches of several sizes."""
    torch.manual_seed(4)
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 14, USERS)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    lists = Lists(indptr, np.concatenate([rng.permutation(N)[:n] for n in lengths]).astype(np.int32))
    contexts = prefixes(lists, N, Kind.REAL, np.arange(USERS))
    rows = np.flatnonzero(contexts.target >= 0)
    student = build_student("mf", {"dim": 4, "dropout": 0.0, "item_dropout": 0.0}, N, None, 0)
    knowledge = Knowledge(4, N, USERS, torch.arange(N) * 4 // N, torch.full((N,), 1 / N))
    objective = Objective(student, [Loss("cross_entropy")], knowledge, steps=12)

    def batches(epoch):
        order = np.random.default_rng([1, epoch]).permutation(rows)
        return np.split(order, [9, 24, 40, 52, 60])

    def collate(chosen):
        before(chosen)
        return next_item_batch(contexts, chosen, LENGTH)

    settings = {"epochs": 2, "learning_rate": 0.01, "checkpoint_steps": 2, "evaluations_per_epoch": 3}
    return Job(model=objective, batches=batches, collate=collate, compile=compile, **settings)


class Stop(Exception):
    """Stands for any failure in the middle of training."""


@pytest.mark.slow
def test_compiled_training_has_the_same_losses_and_resumes_exactly(tmp_path):
    """One program for all sizes of a batch; its checkpoints are those of a training that isn't compiled."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain = fit(job(), Local(), tmp_path / "plain", None, "student")
    assert not counters["stats"]
    whole = fit(job(compile=True), Local(), tmp_path / "whole", None, "student")
    made = counters["stats"]["unique_graphs"]
    assert 1 <= made <= 2, "the first sizes may be taken as fixed; all others share a program"
    assert [point["loss"] for point in whole] == pytest.approx([point["loss"] for point in plain], rel=1e-4)

    read = iter(range(1000))

    def stop(rows):
        if next(read) == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(job(compile=True, before=stop), Local(), tmp_path / "cut", None, "student")
    assert fit(job(compile=True), Local(), tmp_path / "cut", None, "student") == whole
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    for name in ("plain", "whole"):
        newest = json.loads((tmp_path / name / PROGRESS).read_text())["checkpoint"]
        kept = load_file(tmp_path / name / newest / "model.safetensors")
        assert set(kept) == set(job().model.state_dict()) and not any("_orig_mod" in key for key in kept)
