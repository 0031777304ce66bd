"""Checkpoints that a killed run goes on from, bit for bit; safetensors and JSON, no pickle.

DeepSpeed alone keeps a format of its own, because its optimiser state is split over the processes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.engine.fsdp import set_whole_state, whole_state
from distill.engine.local import Local
from distill.errors import UserError
from distill.runs import write_json

PROGRESS = "progress.json"


@dataclass
class Progress:
    """Where a training run stands.

    Attributes:
        epoch, batch: The next batch to train on.
        step: Optimiser steps taken.
        best, best_step: Highest validation figure so far and its step.
        since_best: Evaluations since then.
        done: Training is over, by the number of epochs or early.
        sums, summed: Running sums of the losses since the last evaluation, and of how many batches.
        scaler: State of the gradient scaler; {} unless in fp16.
        curve: One point an evaluation.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    since_best: int = 0
    done: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    scaler: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes safetensors so that a reader sees the old file or the whole new one, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def save_checkpoint(
    folder: Path, accelerator: Accelerator | Local, model: nn.Module, optimizer: Any, progress: Progress
) -> None:
    """Writes a checkpoint; called in every process.

    The pointer, progress.json, is replaced last: a kill at any moment leaves a whole checkpoint, old or new.
    """
    target = folder / f"checkpoint-{progress.epoch}-{progress.batch}"
    target.mkdir(parents=True, exist_ok=True)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        assert isinstance(accelerator, Accelerator)
        accelerator.save_state(str(target))
    else:
        if accelerator.distributed_type == DistributedType.FSDP:
            weights, state = whole_state(model, optimizer)
        else:
            weights, state = accelerator.unwrap_model(model).state_dict(), optimizer.state_dict()["state"]
        if accelerator.is_main_process:
            save_tensors(weights, target / "model.safetensors")
            save_tensors(_flat(state), target / "optimizer.safetensors")
        save_tensors(_random_state(accelerator.device), target / f"random-{accelerator.process_index}.safetensors")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        about = {"checkpoint": target.name, "engine": _engine(accelerator), "processes": accelerator.num_processes}
        write_json(folder / PROGRESS, {**dataclasses.asdict(progress), **about})
        for old in folder.glob("checkpoint-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator | Local, model: nn.Module, optimizer: Any) -> Progress:
    """Restores the last checkpoint in `folder`, where there is one, and says where training goes on.

    Raises:
        UserError: The checkpoint was written by another engine, or by DeepSpeed with another number of processes.
    """
    path = folder / PROGRESS
    if not path.is_file():
        return Progress()
    saved = json.loads(path.read_text())
    source = folder / saved.pop("checkpoint")
    engine, processes = saved.pop("engine"), saved.pop("processes")
    here = _engine(accelerator)
    if engine != here or (engine == "deepspeed" and processes != accelerator.num_processes):
        raise UserError(
            f"The checkpoint {source} was written by {processes} process(es) of engine '{engine}', but this run has "
            f"{accelerator.num_processes} of '{here}'. Go on with the same launch file, or delete {folder}."
        )
    if engine == "deepspeed":
        assert isinstance(accelerator, Accelerator)
        accelerator.load_state(str(source))
        return Progress(**saved)
    weights, kept = load_file(source / "model.safetensors"), _nested(load_file(source / "optimizer.safetensors"))
    if engine == "fsdp":
        set_whole_state(model, optimizer, weights, kept)
    else:
        accelerator.unwrap_model(model).load_state_dict(weights)
        numbered = {int(number): values for number, values in kept.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": numbered})
    random = source / f"random-{accelerator.process_index}.safetensors"
    if random.is_file():  # absent where the run goes on with more processes than it had
        _set_random_state(load_file(random), accelerator.device)
    return Progress(**saved)


def _engine(accelerator: Accelerator | Local) -> str:
    names = {DistributedType.DEEPSPEED: "deepspeed", DistributedType.FSDP: "fsdp"}
    return names.get(accelerator.distributed_type, "torch")


def _flat(state: dict[Any, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{owner}.{name}": value for owner, values in state.items() for name, value in values.items()}


def _nested(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """By owner: the parameter's number, or under FSDP its name, which may hold dots."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        owner, _, name = key.rpartition(".")
        state.setdefault(owner, {})[name] = value
    return state


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
