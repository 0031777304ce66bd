"""What members without gradient training share: a table for the whole state, decayed histories, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.closed_form.interactions import decayed_sum
from distill.data.contexts import ContextBatch
from distill.job import Job


class ClosedForm:
    """Base of members whose whole state is one table; they have nothing for the engine to train."""

    table: Tensor

    def job(self) -> Job | None:
        """Nothing to train."""
        return None

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Nothing changes after `prepare`."""

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Nothing was trained."""

    def item_vectors(self) -> Tensor | None:
        """None: a column of an item-item matrix is no vector to start a student from."""
        return None

    def save(self, folder: Path) -> None:
        """Writes the table."""
        save_file({"table": self.table.contiguous()}, folder / "table.safetensors")

    def load(self, folder: Path) -> Self:
        """Reads the table."""
        self.table = load_file(folder / "table.safetensors")["table"]
        return self


class ItemItem(ClosedForm):
    """A member that scores by summing rows of an item-item matrix over the decayed history."""

    decay: float
    floor: float

    def score(self, batch: ContextBatch) -> Tensor:
        """log(max(s, 0) + floor) with s the decayed sum (B, N): the raw sum is far too flat for a softmax."""
        summed = decayed_sum(torch.from_numpy(batch.seen), self.table, self.decay)
        return torch.log(summed.clamp_min(0) + self.floor)
