"""Launches that split a model's weights, refused for models that are read whole while they train."""

from __future__ import annotations

from typing import Any

from accelerate.utils import DistributedType

from distill.errors import UserError


def refuse_split_weights(accelerator: Any, what: str) -> None:
    """Stops a training that its launch can't carry, before anything is read.

    Validation, rows of tables and the best weights are read from the student itself, outside the engine's wrapper.
    There a process holds a part of it under ZeRO-3 and FSDP, so the figures would be wrong or the run would hang.

    Args:
        accelerator: Accelerate's, as the launch file set it up.
        what: What is trained, for the message.

    Raises:
        UserError: The launch file asks for DeepSpeed ZeRO-3 or for FSDP.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        found = "FSDP (distributed_type: FSDP)"
    elif accelerator.distributed_type == DistributedType.DEEPSPEED and zero_stage(accelerator) == 3:
        found = "DeepSpeed ZeRO-3 (zero_stage: 3)"
    else:
        return
    raise UserError(
        f"{what} can't be trained under {found}, which the launch file asks for: it splits the weights, and a student "
        "is judged and saved by its whole weights, and small enough for every process. Launch with "
        "configs/accelerate/ddp.yaml or cpu2.yaml (DDP), or zero1.yaml or zero2.yaml (ZeRO-1, ZeRO-2)."
    )


def zero_stage(accelerator: Any) -> int:
    """The ZeRO stage of a launch under DeepSpeed, also where a DeepSpeed file of its own says it."""
    plugin = accelerator.state.deepspeed_plugin
    return int(plugin.deepspeed_config.get("zero_optimization", {}).get("stage", 0))
