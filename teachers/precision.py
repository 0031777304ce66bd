"""Which numbers a language model computes in."""

from __future__ import annotations

import platform

import torch

from distill.errors import UserError

PRECISIONS = ("auto", "bf16", "fp16", "fp32")


def chosen_precision(setting: str, device: torch.device, training: bool = True) -> str:
    """The precision that `setting` means on this device.

    Args:
        setting: `auto` is bf16 where the device has instructions for it and fp32 elsewhere: a CPU without them emulates
            bf16 and is up to a hundred times slower than in fp32. `fp16` is for GPUs, above all those without bf16.
        device: Where to compute.
        training: A model trained in fp16 may answer on a CPU, and does so in fp32.

    Raises:
        UserError: The setting is unknown, or a CPU is to train in fp16.
    """
    if setting not in PRECISIONS:
        raise UserError(f"precision is '{setting}'; known: {', '.join(PRECISIONS)}.")
    if setting == "fp16" and device.type == "cpu":
        if training:
            better = "bf16, for which this one has instructions, or fp32" if has_bf16(device) else "fp32"
            raise UserError(f"precision is 'fp16', which is for GPUs, and this runs on a CPU. Use {better}; or 'auto'.")
        return "fp32"
    if setting != "auto":
        return setting
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(ask is not None and ask() for ask in asked)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
