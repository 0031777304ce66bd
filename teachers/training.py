"""How long and how fast a small member trains: settings of its own to a job of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from distill.job import Batch, Job
from distill.tensors import shuffled


@dataclass(frozen=True)
class Training:
    """How long and how fast a member trains.

    Attributes:
        epochs: Most passes; validation may stop earlier.
        batch_size: Rows a step.
        learning_rate: Peak of one cycle.
        patience: Evaluations without a gain before stopping.
        rows_per_epoch: An epoch is a random sample of at most so many rows; 0 takes all.
        seed: Of the order of the rows.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int
    rows_per_epoch: int = 0
    seed: int = 0

    def job(self, model: nn.Module, rows: np.ndarray, collate: Callable[[np.ndarray], Batch]) -> Job:
        """Training of `model` on `rows`, whose order depends on the seed and the epoch alone."""
        return Job(
            model=model,
            batches=lambda epoch: shuffled(rows, self.batch_size, self.seed, epoch, self.rows_per_epoch),
            collate=collate,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            patience=self.patience,
        )
