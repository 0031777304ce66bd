"""A hidden layer over many rows at once, in blocks that stay in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 4096  # rows; a quarter of it took a quarter more time, with one thread and with two
FEW = 1024  # rows up to which the layers are computed as they stand


def hidden_layer(x: Tensor, expand: nn.Linear, contract: nn.Linear) -> Tensor:
    """contract(gelu(expand(x))) for rows (B, I): (B, O).

    Large batches are computed block by block, forward and backward: tens of megabytes that pass through memory five
    times cost a CPU more than the products themselves.
    """
    eager = not torch.compiler.is_compiling() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if eager and len(x) > FEW:
        return _HiddenLayer.apply(x, expand.weight, expand.bias, contract.weight, contract.bias)
    out: Tensor = contract(functional.gelu(expand(x)))
    return out


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        inner, out = x.new_empty(len(x), len(w1)), x.new_empty(len(x), len(w2))
        for at in _blocks(len(x)):
            torch.addmm(b1, x[at], w1.T, out=inner[at])
            torch.addmm(b2, functional.gelu(inner[at]), w2.T, out=out[at])
        context.save_for_backward(x, inner, w1, w2)
        return out

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, inner, w1, w2 = context.saved_tensors
        of_x = torch.empty_like(x)
        of_w1, of_w2 = torch.zeros_like(w1), torch.zeros_like(w2)
        of_b1, of_b2 = x.new_zeros(len(w1)), x.new_zeros(len(w2))
        for at in _blocks(len(x)):
            of_out = gradients[0][at]
            of_w2.addmm_(of_out.T, functional.gelu(inner[at]))
            of_b2 += of_out.sum(0)
            of_inner = torch.ops.aten.gelu_backward(of_out @ w2, inner[at])
            of_w1.addmm_(of_inner.T, x[at])
            of_b1 += of_inner.sum(0)
            torch.mm(of_inner, w1, out=of_x[at])
        return of_x, of_w1, of_b1, of_w2, of_b2


def _blocks(rows: int) -> list[slice]:
    return [slice(first, first + BLOCK) for first in range(0, rows, BLOCK)]
