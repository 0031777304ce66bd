"""What the training loop is asked to do: the seam between teachers or students and the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Batch = dict[str, torch.Tensor]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def mixed(precision: str, device: torch.device, weights: torch.dtype = torch.float32) -> torch.autocast:
    """Autocast to the half type of a precision.

    Args:
        precision: "bf16", "fp16", or "fp32", which leaves all as it is.
        device: Where the model is.
        weights: Their type; weights in a half type (as DeepSpeed's are, which autocast breaks) are left alone.
    """
    wanted = precision in HALVES and weights == torch.float32
    return torch.autocast(device.type, dtype=HALVES.get(precision, torch.bfloat16), enabled=wanted)


@dataclass
class Job:
    """What to train and how.

    Attributes:
        model: `forward(batch)` returns named losses; the one called "loss" is minimised.
        batches: Epoch number to global batches of example numbers; the same for every process.
        collate: Example numbers to the tensors of a batch (on the CPU).
        epochs: Passes over the batches.
        learning_rate: Peak of the one-cycle schedule.
        warmup: Share of all steps in which the rate rises.
        weight_decay: Decoupled (AdamW), for matrices only.
        clip: Largest gradient norm; 0 for none.
        accumulation: Batches whose gradients are averaged before one step.
        precision: "bf16" and "fp16" run the forward under autocast, "fp16" with scaled losses; "fp32" doesn't.
        evaluations_per_epoch: How often `evaluate` is asked; the best weights are kept.
        patience: Evaluations without a gain after which training stops; 0 never stops early.
        checkpoint_steps: Steps between checkpoints (an epoch's end always writes one); 0 for none at all.
        micro_batch: Examples in a batch over all processes, which DeepSpeed wants to know.
        beta2: Decay of AdamW's second moment.
        optimiser: "adamw", or a rule of `distill.engine.optimisers` for tables of rows.
        tables: Endings of the names of the parameters that are such tables.
        rate_scale: A parameter's name to the factor on its learning rate; None leaves all rates alike.
        compile: Whether torch.compile makes a program of the model's forward and backward.
    """

    model: nn.Module
    batches: Callable[[int], list[np.ndarray]]
    collate: Callable[[np.ndarray], Batch]
    epochs: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulation: int = 1
    precision: str = "fp32"
    evaluations_per_epoch: int = 1
    patience: int = 0
    checkpoint_steps: int = 0
    micro_batch: int = 1
    beta2: float = 0.999
    optimiser: str = "adamw"
    tables: tuple[str, ...] = ()
    rate_scale: Callable[[str], float] | None = None
    compile: bool = False
