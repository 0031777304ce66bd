"""Torch's fully sharded data parallel (FSDP2) through Accelerate: which layers are split, the CPU, checkpoints."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from distill.errors import UserError
from distill.job import Job


def asked_for_fsdp() -> bool:
    """Whether the launch file says `distributed_type: FSDP`."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def allow_fsdp_on_cpu(accelerator: Accelerator) -> None:
    """Turns FSDP on among CPU processes, where Accelerate would silently train by DDP instead."""
    if asked_for_fsdp() and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # Every use of the state copies this one's fields.
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP


def configure_fsdp(accelerator: Accelerator, job: Job) -> None:
    """Names the classes of layers that are split one by one: those that Hugging Face bodies inside the model list.

    The rest of the model is split as one piece.

    Raises:
        UserError: The launch file asks for version 1, the job for fp16, the model has weights in 4 bits, or no such
            layers, as a student.
    """
    refuse_quantised(job.model, "FSDP")
    if job.precision == "fp16":
        raise UserError("precision fp16 isn't offered under FSDP. Use bf16 or fp32, or launch with ddp.yaml.")
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError("The launch file asks for FSDP version 1. Set fsdp_config.fsdp_version: 2 in it.")
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    present = {type(module).__name__ for module in job.model.modules()}
    listed = {name for module in job.model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    if not listed & present:
        raise UserError(
            "FSDP splits language models, and this one is none: a student is judged by its whole weights, and small "
            "enough for every process. Launch it with ddp.yaml or cpu2.yaml."
        )
    plugin.transformer_cls_names_to_wrap = sorted(listed & present)
    plugin.auto_wrap_policy = transformer_auto_wrap_policy  # anew for each model: Accelerate binds it to the first


def refuse_quantised(model: nn.Module, engine: str) -> None:
    """Raises UserError where some weights are in 4 bits: packed numbers can't be split or cast."""
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        raise UserError(
            f"A base in 4 bits (adapter.quantised) doesn't train under {engine}. Launch with ddp.yaml or cpu2.yaml, or "
            "without a launcher."
        )


def whole_state(model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Weights by name, and optimiser state by the parameter's name; whole in the main process, empty in others.

    Called in every process.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Any = get_state_dict(model, _bare(optimizer), options=options)
    weights, state = found
    return dict(weights), dict(state.get("state", {}))


def set_whole_state(
    model: nn.Module, optimizer: Any, weights: dict[str, Tensor], state: dict[str, dict[str, Tensor]]
) -> None:
    """Puts back what `whole_state` gave; every process passes all of it and keeps its part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    groups = get_optimizer_state_dict(model, _bare(optimizer), options=options)["param_groups"]
    parts: dict[str, Any] = {"model": weights, "optimiser": {"state": state, "param_groups": groups}}
    set_state_dict(
        model,
        _bare(optimizer),
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimiser"],
        options=options,
    )


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)
