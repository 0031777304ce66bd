"""fp16: losses are scaled up so that small gradients don't vanish, and a step whose gradients overflow is left out."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from distill.engine.local import Local
from distill.job import Job

FINITE = "finite batches"  # among a run's sums: how many batches of fp16 had a loss
LEAST_SCALE = 1.0  # halved down to here in 17 steps, nothing overflows but weights that are lost


def make_scaler(job: Job, accelerator: Accelerator | Local, state: dict[str, float]) -> GradScaler:
    """Torch's gradient scaler, as Accelerate uses it; it lets everything pass unless the job is in fp16.

    It belongs to the job and not to the launch, since members of one teacher may differ in precision. DeepSpeed has its
    own.

    Args:
        job: Its `precision` is read.
        accelerator: Of the run.
        state: Of the scaler in the checkpoint that the run goes on from; {} for none.
    """
    wanted = job.precision == "fp16" and accelerator.distributed_type != DistributedType.DEEPSPEED
    scaler = GradScaler(accelerator.device.type, enabled=wanted)
    if state:
        scaler.load_state_dict(state)
    return scaler


def bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser inside Accelerate's wrapper: torch's scaler asks it whether it can unscale by itself."""
    found: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return found


def add_losses(sums: dict[str, Tensor], named: dict[str, Tensor], precision: str) -> None:
    """Adds a batch's losses to the running sums, in place.

    In fp16 a batch may overflow, and then its step is left out: it counts neither among the losses nor among
    `FINITE`.
    """
    values = {name: value.detach() for name, value in named.items()}
    if precision == "fp16":
        finite = torch.isfinite(values["loss"])
        values = {name: value.float().nan_to_num(0.0, 0.0, 0.0) * finite for name, value in values.items()}
        values[FINITE] = finite.float()
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value.clone()


def diverged(scaler: GradScaler, precision: str, means: dict[str, float]) -> str:
    """What is wrong with a run that is lost, or "" where all is well.

    A mean loss that isn't finite tells; in fp16, where a step may be left out, it is a scale that step after step has
    pushed down. DeepSpeed watches its own scale.
    """
    if precision == "fp16":
        lost = scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE
        return "the gradients overflowed at every step" if lost else ""
    return "" if all(map(math.isfinite, means.values())) else f"the loss became {means['loss']}"
