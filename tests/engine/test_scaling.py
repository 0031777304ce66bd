"""fp16: torch's scaler and autocast on the CPU, which has both, so that skipped steps and resume are tried for real."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from small_job import accuracy, small_job

from distill.engine.accelerator import make_accelerator
from distill.engine.fsdp import configure_fsdp
from distill.engine.local import Local
from distill.engine.loop import BEST, best_weights, fit
from distill.engine.scaling import make_scaler
from distill.errors import UserError
from distill.job import Job


class Overflowing(nn.Module):
    """The job's model, whose loss overflows in the batches of these numbers."""

    def __init__(self, inner: nn.Module, calls: set[int]) -> None:
        super().__init__()
        self.inner, self.calls, self.number = inner, calls, -1

    def forward(self, batch):
        self.number += self.training
        named = self.inner(batch)
        return {**named, "loss": named["loss"] * (torch.inf if self.number in self.calls and self.training else 1.0)}


def overflowing(calls: set[int], **settings) -> Job:
    job = small_job(dropout=0.0, precision="fp16", **settings)
    job.model = Overflowing(job.model, calls)
    return job


def test_fp16_learns_as_fp32_does(tmp_path):
    settings = {"dropout": 0.0, "epochs": 8, "learning_rate": 0.03}
    half = fit(small_job(precision="fp16", **settings), Local(), tmp_path / "half", accuracy, "small")
    full = fit(small_job(**settings), Local(), tmp_path / "full", accuracy, "small")
    assert [p["loss"] for p in half] == pytest.approx([p["loss"] for p in full], abs=0.02)
    assert set(half[0]) == set(full[0])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_overflows_is_left_out_and_the_watch_keeps_still(tmp_path, accumulation):
    """12 batches: the 4th overflows. Its step changes nothing, and the mean loss is that of the other 11."""
    settings = {"epochs": 1, "accumulation": accumulation}
    job = overflowing({3}, **settings)
    before = {}
    collate = job.collate

    def watched(rows):
        before[len(before)] = [p.detach().clone() for p in job.model.parameters()]
        return collate(rows)

    job.collate = watched
    curve = fit(job, Local(), tmp_path, None, "small")
    assert 0 < curve[-1]["loss"] < 2
    still = [all(map(torch.equal, before[n], before[n + 1])) for n in range(11)]
    assert [n for n in range(11) if still[n]] == ([3] if accumulation == 1 else [0, 2, 3, 4, 6, 8, 10])
    assert all(torch.isfinite(value).all() for value in best_weights(tmp_path).values())


def test_gradients_that_always_overflow_end_the_run(tmp_path):
    with pytest.raises(UserError, match=r"small: the gradients overflowed at every step.*use precision bf16 or fp32"):
        fit(overflowing(set(range(1000)), epochs=3), Local(), tmp_path, None, "small")


def test_small_gradients_survive():
    """A loss of a ten-millionth of its size has gradients below the smallest number of fp16."""
    moved = {}
    for scaled in (True, False):
        job = small_job(dropout=0.0, precision="fp16")
        scaler = make_scaler(job, Local(), {})
        batch = job.collate(job.batches(0)[0])
        with torch.autocast("cpu", dtype=torch.float16):
            loss = job.model(batch)["loss"] * 1e-7
        (scaler.scale(loss) if scaled else loss).backward()
        moved[scaled] = float(next(job.model.parameters()).grad.abs().sum())
    assert moved[True] > 0
    assert moved[False] == 0


@pytest.mark.parametrize("stop", [5, 13, 17])
def test_a_resumed_run_in_fp16_is_exact(tmp_path, stop):
    """The scale after a skipped step is part of the checkpoint: it decides which later steps are skipped."""

    def job(fail_at: int = -1) -> Job:
        made = small_job(precision="fp16", epochs=2, checkpoint_steps=2)
        collate, number = made.collate, iter(range(1000))

        def failing(rows):
            if next(number) == fail_at:
                raise KeyboardInterrupt
            return collate(rows)

        made.collate = failing
        return made

    whole = fit(job(), Local(), tmp_path / "whole", accuracy, "small")
    with pytest.raises(KeyboardInterrupt):
        fit(job(stop), Local(), tmp_path / "cut", accuracy, "small")
    assert fit(job(), Local(), tmp_path / "cut", accuracy, "small") == whole
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


def test_the_scale_is_restored():
    job = small_job(precision="fp16")
    scaler = make_scaler(job, Local(), {})
    lower = scaler.state_dict() | {"scale": 512.0, "_growth_tracker": 7}
    assert make_scaler(job, Local(), lower).state_dict() == lower
    assert not make_scaler(small_job(), Local(), {}).is_enabled()


def test_accelerate_and_local_agree(tmp_path):
    job = {"precision": "fp16", "epochs": 1}
    fit(small_job(**job), make_accelerator(), tmp_path / "accelerate", accuracy, "small")
    fit(small_job(**job), Local(), tmp_path / "local", accuracy, "small")
    assert (tmp_path / "accelerate" / BEST).read_bytes() == (tmp_path / "local" / BEST).read_bytes()


def test_fsdp_refuses_fp16_and_weights_in_4_bits():
    with pytest.raises(UserError, match="precision fp16 isn't offered under FSDP"):
        configure_fsdp(None, small_job(precision="fp16"))
    job = small_job()
    job.model.packed = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match="doesn't train under FSDP"):
        configure_fsdp(None, job)
