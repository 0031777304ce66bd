"""Dropout for large batches: random bits drawn four numbers at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FEW = 1024  # rows up to which torch's own dropout is taken, with its draws
STEPS = 2**16  # a number's fate hangs on 16 bits


def is_large(rows: int, device: torch.device) -> bool:
    """Whether batches of so many rows have the draws of this module; others have those of torch's dropout."""
    return rows > FEW and device.type == "cpu" and not torch.compiler.is_compiling()


def dropout(x: Tensor, share: float) -> Tensor:
    """`torch.nn.functional.dropout` in training: rows (B, ...) with a share of the numbers set to zero.

    torch draws 53 bits for a number, one after the other, which took a tenth to a fifth of a training step on a CPU.
    """
    if not share:
        return x
    if not is_large(len(x), x.device):
        return functional.dropout(x, share)
    return x * kept_(torch.empty_like(x), share).div_(1 - share)


def kept_(out: Tensor, share: float) -> Tensor:
    """Fills a contiguous tensor with zeros for a share of its numbers, to 1.5e-5, and ones for the others."""
    words = torch.empty(-(-out.numel() // 4), dtype=torch.int64, device=out.device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: out.numel()].view(out.shape)
    return out.copy_(bits >= round(share * STEPS) - STEPS // 2)
