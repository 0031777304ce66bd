"""The training loop: one for teachers and students, from one process to DeepSpeed.

Batches are lists of example numbers that depend on (seed, epoch) alone, so a resumed run skips to its step without
reading what it skips, and each process of a launch takes its share of the same global batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.engine.accelerator import build_whole, configure_deepspeed, start_tracking, stop_tracking
from distill.engine.checkpoint import Progress, load_checkpoint, save_checkpoint, save_tensors
from distill.engine.compiled import compile_errors_said, compile_module
from distill.engine.faults import memory_said
from distill.engine.fsdp import configure_fsdp
from distill.engine.local import Local
from distill.engine.optimisers import clip_gradients, has_rows, make_optimiser
from distill.engine.preemption import TERMINATED, sigterm_noted
from distill.engine.scaling import FINITE, GradScaler, add_losses, bare, diverged, make_scaler
from distill.errors import UserError
from distill.job import Job, mixed
from distill.progress import track

BEST = "best.safetensors"
LOG_STEPS = 10  # steps between a tracker's points; the loss is read and checked no more often, for a GPU's sake


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Learning-rate factor at `step` of `total`: linear rise to 1, then half a cosine down to 0.01."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total - rise))))


def parameter_groups(
    model: nn.Module, weight_decay: float, rate_scale: Callable[[str], float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by weight decay (matrices have it, vectors and scalars don't) and factor on the rate.

    Each group holds its factor as `rate_scale`; the largest factor comes first.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = rate_scale(name) if rate_scale else 1.0
            groups.setdefault((-scale, parameter.ndim <= 1), []).append(parameter)
    return [
        {"params": found, "weight_decay": 0.0 if vector else weight_decay, "rate_scale": -scale}
        for (scale, vector), found in sorted(groups.items(), key=lambda group: group[0])
    ]


def share(rows: np.ndarray, accelerator: Accelerator | Local) -> np.ndarray:
    """This process's part of a global batch; all parts have one length (a remainder is dropped)."""
    even = len(rows) // accelerator.num_processes * accelerator.num_processes
    return rows[accelerator.process_index : even : accelerator.num_processes]


def evaluation_points(batches: int, evaluations: int) -> set[int]:
    """After how many batches of an epoch to evaluate: evenly spread, the end always among them."""
    wanted = max(1, evaluations)
    return {round(batches * number / wanted) for number in range(1, wanted + 1)} - {0}


@dataclass
class _Run:
    """What the steps of one training share."""

    job: Job
    accelerator: Accelerator | Local
    folder: Path
    evaluate: Callable[[nn.Module], float] | None
    label: str
    model: nn.Module
    optimizer: Any
    scaler: GradScaler
    progress: Progress
    steps: int
    stop_asked: Callable[[], bool]
    sums: dict[str, Tensor] = field(default_factory=dict)

    @property
    def deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED


def fit(
    job: Job,
    accelerator: Accelerator | Local,
    folder: Path,
    evaluate: Callable[[nn.Module], float] | None,
    label: str,
) -> list[dict[str, float]]:
    """Trains `job.model`, leaving its best weights in `folder/best.safetensors`, and returns the training curve.

    Args:
        job: What to train.
        accelerator: Accelerate's, or `Local` for a job of one process inside a launch.
        folder: For checkpoints and the best weights; a run that finds its checkpoint here goes on from it.
        evaluate: The (wrapped) model to a number to maximise, called in every process; None keeps the last weights.
        label: Name on the progress bar and of the tracker's run.

    Raises:
        UserError: There is nothing to train on; the loss is NaN or infinite (the last good checkpoint is kept); or the
            job is to be compiled and can't be, for want of a C++ compiler, say.
        SystemExit: SIGTERM came; a checkpoint was written first, where the job has any.
    """
    per_epoch = len(job.batches(0))
    if per_epoch == 0:
        raise UserError(f"{label}: there is not a single batch to train on. Are there train interactions at all?")
    folder.mkdir(parents=True, exist_ok=True)
    steps = job.epochs * math.ceil(per_epoch / job.accumulation)
    with _tracking(accelerator, label), _sigterm(job) as stop_asked:
        run = _start(job, accelerator, folder, evaluate, label, steps, stop_asked)
        while not run.progress.done:
            with memory_said(label, folder), compile_errors_said(job.compile, label):
                _epoch(run)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    if isinstance(accelerator, Accelerator):
        build_whole(accelerator)
    return run.progress.curve


def best_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that `fit` kept, float32."""
    return load_file(folder / BEST)


@contextlib.contextmanager
def _tracking(accelerator: Accelerator | Local, label: str) -> Iterator[None]:
    """Trackers of a run of its own; `Local` has none."""
    if not isinstance(accelerator, Accelerator):
        yield
        return
    start_tracking(accelerator, label)
    try:
        yield
    finally:
        stop_tracking(accelerator)


def _sigterm(job: Job) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """A job without checkpoints gains nothing by living on."""
    return sigterm_noted() if job.checkpoint_steps else contextlib.nullcontext(lambda: False)


def _start(
    job: Job, accelerator: Any, folder: Path, evaluate: Any, label: str, steps: int, stop_asked: Callable[[], bool]
) -> _Run:
    """Wraps model and optimiser, and restores the last checkpoint."""
    # Every process starts from the stage's seed; their dropout must differ all the same.
    if accelerator.num_processes > 1:
        torch.manual_seed(torch.initial_seed() + accelerator.process_index)
    groups = parameter_groups(job.model, job.weight_decay, job.rate_scale)
    optimizer: Any = make_optimiser(job, groups, accelerator.distributed_type == DistributedType.DEEPSPEED)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        configure_deepspeed(accelerator, job)
    elif accelerator.distributed_type == DistributedType.FSDP:
        configure_fsdp(accelerator, job)
    if job.compile:
        compile_module(job.model)
    model, optimizer = accelerator.prepare(job.model, optimizer)
    progress = load_checkpoint(folder, accelerator, model, optimizer)
    scaler = make_scaler(job, accelerator, progress.scaler)
    run = _Run(job, accelerator, folder, evaluate, label, model, optimizer, scaler, progress, steps, stop_asked)
    run.sums = {name: torch.tensor(value, device=accelerator.device) for name, value in progress.sums.items()}
    return run


def _epoch(run: _Run) -> None:
    """Trains from the next batch to the epoch's end, or to an early stop."""
    job, progress = run.job, run.progress
    batches = job.batches(progress.epoch)
    due = evaluation_points(len(batches), job.evaluations_per_epoch)
    title = f"{run.label} epoch {progress.epoch + 1}/{job.epochs}"
    run.model.train()
    for number in track(range(progress.batch, len(batches)), title, unit="steps"):
        first = number - number % job.accumulation
        group = min(job.accumulation, len(batches) - first)  # the last group of an epoch may be smaller
        last = number + 1 == first + group
        _train(run, batches[number], group, last)
        progress.batch = number + 1
        if last and progress.step % LOG_STEPS == 0:
            _log_step(run)
        if number + 1 in due:
            _judge(run, len(batches))
        if progress.done:
            break
        if last and job.checkpoint_steps and number + 1 < len(batches):  # an epoch's end has a checkpoint of its own
            _between_steps(run)
    if not progress.done:
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.done = progress.epoch >= job.epochs
    if job.checkpoint_steps:
        _checkpoint(run)


def _between_steps(run: _Run) -> None:
    """A checkpoint where one is due, and the end of the process where it was told to end."""
    leaving = _must_leave(run)
    if leaving or run.progress.step % run.job.checkpoint_steps == 0:
        _checkpoint(run)
    if leaving:
        raise SystemExit(TERMINATED)


def _train(run: _Run, rows: np.ndarray, group: int, last: bool) -> None:
    """Forward and backward of one batch; a step of the optimiser after the last batch of a group of `group`."""
    job, accelerator, device = run.job, run.accelerator, run.accelerator.device
    batch = {name: value.to(device) for name, value in job.collate(share(rows, accelerator)).items()}
    precision = "fp32" if run.deepspeed else job.precision  # DeepSpeed holds bf16 weights itself
    alone = contextlib.nullcontext() if last or run.deepspeed else accelerator.no_sync(run.model)
    rate = job.learning_rate * one_cycle(run.progress.step, run.steps, job.warmup)
    for parameters in run.optimizer.param_groups:
        parameters["lr"] = rate * parameters.get("rate_scale", 1.0)
    with alone:
        with mixed(precision, device):
            named = run.model(batch)
        if run.deepspeed:
            assert isinstance(accelerator, Accelerator)
            # The engine divides by the configured group size, clips, steps and clears by itself.
            scaled = named["loss"] * (job.accumulation / group)
            accelerator.deepspeed_engine_wrapped.backward(scaled, sync_gradients=last)
        else:
            accelerator.backward(run.scaler.scale(named["loss"] / group))
    if last and not run.deepspeed:
        run.scaler.unscale_(bare(run.optimizer))
        if job.clip and has_rows(run.model.parameters()):
            clip_gradients(run.model.parameters(), job.clip)
        elif job.clip:
            accelerator.clip_grad_norm_(run.model.parameters(), job.clip)
        run.scaler.step(bare(run.optimizer))
        run.scaler.update()
        run.optimizer.zero_grad()
    run.progress.step += int(last)
    run.progress.summed += 1
    add_losses(run.sums, named, job.precision)


def _means(run: _Run) -> dict[str, float]:
    """Mean losses since the last evaluation, over all processes.

    Raises:
        UserError: One of them is NaN or infinite.
    """
    names = list(run.sums)
    sums = run.accelerator.reduce(torch.stack([run.sums[name].float() for name in names]), "mean").tolist()
    totals = dict(zip(names, sums, strict=True))
    batches = totals.pop(FINITE, run.progress.summed)
    means = {name: total / batches if batches else math.nan for name, total in totals.items()}
    wrong = diverged(run.scaler, run.job.precision, means)
    if wrong:
        kept = f"The last good weights are in {run.folder}. " if (run.folder / BEST).is_file() else ""
        raise UserError(
            f"{run.label}: {wrong} in epoch {run.progress.epoch + 1}, by step "
            f"{run.progress.step} of {run.steps}. {kept}Lower the learning rate (now {run.job.learning_rate:g}), "
            f"or use precision {'bf16 or ' if run.job.precision == 'fp16' else ''}fp32."
        )
    return means


def _log_step(run: _Run) -> None:
    rate = run.optimizer.param_groups[0]["lr"]
    run.accelerator.log(
        {f"train/{k}": v for k, v in _means(run).items()} | {"train/rate": rate}, step=run.progress.step
    )


def _judge(run: _Run, per_epoch: int) -> None:
    """Asks for the validation figure, keeps the weights if they are the best so far, decides whether to stop."""
    progress, means = run.progress, _means(run)
    run.model.eval()
    with torch.no_grad():
        value = _agreed(run.evaluate(run.model), run.accelerator) if run.evaluate else float(progress.step)
    run.model.train()
    point = {"step": progress.step, "epoch": round(progress.epoch + progress.batch / per_epoch, 3)}
    point |= {name: round(mean, 5) for name, mean in means.items()}
    if run.evaluate:
        point["validation"] = round(value, 6)
    progress.curve.append(point)
    run.accelerator.log({k: v for k, v in point.items() if k != "step"}, step=progress.step)
    run.sums, progress.summed = {}, 0
    if value > progress.best:
        progress.best, progress.best_step, progress.since_best = value, progress.step, 0
        state = run.accelerator.get_state_dict(run.model)
        if run.accelerator.is_main_process:
            save_tensors({name: value.float() for name, value in state.items()}, run.folder / BEST)
    else:
        progress.since_best += 1
    progress.done = bool(run.job.patience) and progress.since_best >= run.job.patience


def _checkpoint(run: _Run) -> None:
    if run.sums:
        _means(run)  # a checkpoint must not hold a diverged run
    run.progress.scaler = run.scaler.state_dict()
    run.progress.sums = {name: float(value) for name, value in run.sums.items()}
    save_checkpoint(run.folder, run.accelerator, run.model, run.optimizer, run.progress)


def _must_leave(run: _Run) -> bool:
    """Whether any process was told to end; several processes ask each other only now and then."""
    if run.accelerator.num_processes == 1:
        return run.stop_asked()
    if run.progress.step % LOG_STEPS:
        return False
    return _agreed(float(run.stop_asked()), run.accelerator) > 0


def _agreed(value: float, accelerator: Accelerator | Local) -> float:
    """The mean of all processes' values, so that none decides to stop while another goes on."""
    if accelerator.num_processes == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=accelerator.device)
    return float(accelerator.reduce(tensor, "mean"))
