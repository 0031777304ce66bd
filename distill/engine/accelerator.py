"""Accelerate set up the same way for every stage: backend, time-out, trackers, DeepSpeed without a GPU."""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from distill.engine.fsdp import allow_fsdp_on_cpu, refuse_quantised
from distill.errors import UserError
from distill.job import Job

WHOLE_BELOW = 10_000  # ZeRO-3 keeps parameters with fewer elements whole; its own default would keep a small BERT whole
TIMEOUT = timedelta(hours=12)  # the other processes wait while the main one fits the members that need only one


def make_accelerator(tracker: str = "none", log_folder: Path | None = None) -> Accelerator:
    """Accelerate for this process, launched or not.

    Args:
        tracker: "tensorboard", "wandb", "mlflow" or "none".
        log_folder: Where trackers write; needed unless `tracker` is "none". Nothing is written before training starts.

    Raises:
        UserError: The launch file asks for DeepSpeed, or the config for a tracker, and it isn't installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed looks for a GPU, and warns
    launched = int(os.environ.get("LOCAL_RANK", "-1")) >= 0
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if deepspeed:
        _require_deepspeed()
    group = InitProcessGroupKwargs(timeout=TIMEOUT)
    several_on_cpu = launched and not torch.cuda.is_available()
    if several_on_cpu:
        # Accelerate would leave the backend of DeepSpeed processes unset and take each for the only one.
        group.backend = "gloo"
    accelerator = Accelerator(
        # Told so, Accelerate synchronises CPU processes; DeepSpeed would be switched off by it.
        cpu=several_on_cpu and not deepspeed,
        log_with=_tracker(tracker, log_folder),
        project_dir=log_folder,
        kwargs_handlers=[group],
    )
    build_whole(accelerator)
    allow_fsdp_on_cpu(accelerator)
    return accelerator


def build_whole(accelerator: Accelerator) -> None:
    """Keeps transformers from splitting models while they are built under ZeRO-3.

    It does so as long as Accelerate's DeepSpeed settings hold an object for it, also where the launch file says
    `zero3_init_flag: false`; a model is read whole here and split when the engine wraps it.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and not plugin.zero3_init_flag:
        plugin.dschf = None


def configure_deepspeed(accelerator: Accelerator, job: Job) -> None:
    """Tells DeepSpeed the batch size and precision that it would learn from a data loader and a launch file.

    Raises:
        UserError: The model has weights in 4 bits.
    """
    refuse_quantised(job.model, "DeepSpeed")
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    settings["train_micro_batch_size_per_gpu"] = max(1, job.micro_batch // accelerator.num_processes)
    settings["gradient_accumulation_steps"] = accelerator.gradient_accumulation_steps = job.accumulation
    settings["train_batch_size"] = (
        settings["train_micro_batch_size_per_gpu"] * job.accumulation * accelerator.num_processes
    )
    settings["gradient_clipping"] = float(job.clip)
    settings["bf16"] = {"enabled": job.precision == "bf16"}
    settings["fp16"] = {"enabled": job.precision == "fp16"}
    if settings["zero_optimization"]["stage"] == 3:
        settings["zero_optimization"].setdefault("stage3_param_persistence_threshold", WHOLE_BELOW)


def start_tracking(accelerator: Accelerator, label: str, settings: dict[str, Any] | None = None) -> None:
    """Opens the trackers for one training or stage, under its own name and with its settings."""
    accelerator.trackers = []
    if accelerator.log_with:
        accelerator.init_trackers(label, config=settings)


def stop_tracking(accelerator: Accelerator) -> None:
    """Flushes and closes the trackers; the processes stay connected."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []


def _require_deepspeed() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "The launch file asks for DeepSpeed (distributed_type: DEEPSPEED), but it isn't installed. "
            "Install it with: pip install taildistill[deepspeed] - or launch with cpu2.yaml or ddp.yaml instead."
        )


def _tracker(tracker: str, log_folder: Path | None) -> str | None:
    if tracker == "none" or log_folder is None:
        return None
    if tracker in ("wandb", "mlflow") and importlib.util.find_spec(tracker) is None:
        raise UserError(
            f"run.tracker is '{tracker}', but the package {tracker} isn't installed. "
            "Install it with: pip install taildistill[tracking] - or set run.tracker to tensorboard or none."
        )
    return tracker
