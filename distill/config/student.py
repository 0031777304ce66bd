"""Settings of student training: losses and fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Loss:
    """One term of the total loss: a loss by name, its weight, and its own settings."""

    name: str
    weight: float = 1.0
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Training of the student, distilled or not.

    An epoch is a random sample of at most `rows_per_epoch` contexts (0: all), which bounds the time on large data.
    """

    epochs: int = 5
    rows_per_epoch: int = 100_000
    batch_size: int = 512
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    max_length: int = 50
    patience: int = 0
    checkpoint_steps: int = 500
    evaluations_per_epoch: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
