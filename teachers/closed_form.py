"""What members without gradient training share: an item-item or item-only table, decayed histories, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN, Dataset
from distill.job import Job

NEGLIGIBLE = 1e-4  # history items whose weight falls below this are not looked at


def interaction_matrix(dataset: Dataset, weighted: bool = False) -> sparse.csr_matrix:
    """Train interactions as a CSR matrix (U, N), float32.

    Args:
        dataset: Only its train part is used.
        weighted: Entries are the events' weights where the data set has any (`data.weight`); else they are 1.
    """
    lists = dataset.lists(TRAIN, TRAIN)
    if weighted and dataset.weights is not None:
        values = dataset.weights[dataset.parts == TRAIN].astype(np.float32)
        return sparse.csr_matrix((values, lists.items, lists.indptr), shape=(len(lists), dataset.n_items))
    ones = np.ones(len(lists.items), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, lists.items, lists.indptr), shape=(len(lists), dataset.n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def decayed_sum(seen: Tensor, table: Tensor, decay: float) -> Tensor:
    """sum_j exp(-age_j / decay) table[item_j], age 0 for the latest item.

    Args:
        seen: Histories (B, L), right-aligned, padded with the number of items.
        table: Rows to sum (N, M).
        decay: Time constant in items; infinity weighs all alike.

    Returns:
        (B, M).
    """
    n_items = table.shape[0]
    if np.isfinite(decay):
        seen = seen[:, -max(1, int(np.ceil(-np.log(NEGLIGIBLE) * decay))) :]
    weights = decay_weights(seen, n_items, decay)
    index = torch.where(seen < n_items, seen, 0)
    return functional.embedding_bag(index, table, per_sample_weights=weights.to(table.dtype), mode="sum")


def decay_weights(seen: Tensor, n_items: int, decay: float) -> Tensor:
    """exp(-age / decay) of each place of right-aligned histories (B, L), 0 for padding."""
    age = torch.arange(seen.shape[1] - 1, -1, -1, dtype=torch.float32)
    return torch.where(seen < n_items, torch.exp(-age / decay), 0.0)


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
