"""LightGCN: embeddings of users and items, propagated over the graph of their interactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from distill.closed_form.graph import Propagate, compressed, normalised
from distill.closed_form.interactions import decayed_sum, interaction_matrix
from distill.data.contexts import ContextBatch
from distill.job import Batch, Job
from distill.tensors import mask_seen
from teachers.protocol import Inputs
from teachers.training import Training


class LightGCNModel(nn.Module):
    """E_k+1 = A E_k, A the normalised adjacency of users and items; a node's vector is the mean of E_0, ..., E_K.

    A joins user u and item i by 1 / sqrt(c_u c_i), c the degrees. Scores are cosines times a learned scale.
    """

    to_users: Tensor
    to_items: Tensor

    def __init__(self, matrix: sparse.csr_matrix, dim: int, layers: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.n_users, self.n_items = matrix.shape
        self.layers = layers
        self.users = nn.Parameter(torch.randn(self.n_users, dim) / dim**0.5)
        self.items = nn.Parameter(torch.randn(self.n_items, dim) / dim**0.5)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.dropout = nn.Dropout(dropout)
        adjacency = normalised(matrix)
        self.register_buffer("to_users", compressed(adjacency), persistent=False)  # (U, N)
        self.register_buffer("to_items", compressed(adjacency.T.tocsr()), persistent=False)  # (N, U)

    def propagated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Final user vectors (U, D) and item vectors (N, D), and the item vectors that a user is made of (N, D).

        The last is the mean of E_0, ..., E_K-1 of the items: a user without a vector of its own is their normalised
        sum over its items.
        """
        users: Tensor = self.users
        items: Tensor = self.items
        all_users, all_items = [users], [items]
        for _ in range(self.layers):
            users, items = (
                Propagate.apply(self.to_users, self.to_items, items),
                Propagate.apply(self.to_items, self.to_users, users),
            )
            all_users.append(users)
            all_items.append(items)
        before = torch.stack(all_items[:-1]).sum(0) / len(all_items)
        return torch.stack(all_users).mean(0), torch.stack(all_items).mean(0), before

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Full-softmax cross-entropy on observed pairs: user (B,), label (B,), and the user's other items, masked."""
        users, items, _ = self.propagated()
        query = functional.normalize(self.dropout(users[batch["user"]]), dim=-1)
        scores = self.log_scale.exp() * query @ functional.normalize(items, dim=-1).T
        return {"loss": functional.cross_entropy(mask_seen(scores, batch["seen"]), batch["label"])}


class LightGCN:
    """The member around `LightGCNModel`; it trains in the main process.

    A context is folded in: its vector is the normalised, recency-decayed sum of the propagated vectors of its items,
    which is what a user without a vector of its own would get, so new users and new clicks need no training. Only the
    two item tables are kept.

    References:
        He et al. 2020, "LightGCN: simplifying and powering graph convolution network for recommendation", eq. 3 to 8;
        a full softmax over cosines in place of BPR, the user's other items masked.
    """

    def __init__(
        self,
        dim: int = 64,
        layers: int = 2,
        scale: float = 12.0,
        dropout: float = 0.2,
        decay: float = 10.0,
        epochs: int = 20,
        rows_per_epoch: int = 100_000,
        batch_size: int = 1024,
        learning_rate: float = 5e-3,
        patience: int = 4,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            dim: Width D.
            layers: Propagation steps K.
            scale: Starting logit scale.
            dropout: On the propagated user vectors, in training.
            decay: Time constant of the recency weights in scoring, in items; infinity weighs all alike.
            epochs: Most passes over the train events; validation may stop earlier.
            rows_per_epoch: An epoch is a random sample of at most so many train events; 0 takes all.
            batch_size: Train events a step; every step propagates over the whole graph.
            learning_rate: Peak of one cycle.
            patience: Evaluations without a gain before stopping.
            seed: Added to the experiment's seed.
        """
        self.dim, self.layers, self.scale, self.dropout = dim, max(1, layers), scale, dropout
        self.decay, self.seed = decay, seed
        self.training = Training(epochs, batch_size, learning_rate, patience, rows_per_epoch)
        self.model: LightGCNModel | None = None

    def prepare(self, inputs: Inputs) -> None:
        """Builds the graph and the model."""
        seed = inputs.seed + self.seed
        torch.manual_seed(seed)
        self.matrix = interaction_matrix(inputs.dataset)
        self.matrix.sort_indices()
        self.training = replace(self.training, seed=seed)
        self.model = LightGCNModel(self.matrix, self.dim, self.layers, self.scale, self.dropout)
        self.degree = torch.from_numpy(np.asarray(self.matrix.sum(0)).ravel()).float().clamp_min(1.0)

    def job(self) -> Job | None:
        """Training on every observed pair."""
        assert self.model is not None
        return self.training.job(self.model, np.arange(self.matrix.nnz), self._collate)

    def _collate(self, rows: np.ndarray) -> Batch:
        indptr, items = self.matrix.indptr, self.matrix.indices
        user = np.searchsorted(indptr, rows, side="right") - 1
        width = int(np.diff(indptr)[user].max())
        places = indptr[user + 1][:, None] - width + np.arange(width)
        others = (places >= indptr[user][:, None]) & (places != rows[:, None])
        seen = np.where(others, items[np.maximum(places, 0)], self.matrix.shape[1])
        seen.sort(axis=1)
        seen = seen[:, ::-1]  # padding, the largest number, comes first
        return {
            "user": torch.from_numpy(user.astype(np.int64)),
            "label": torch.from_numpy(items[rows].astype(np.int64)),
            "seen": torch.from_numpy(np.ascontiguousarray(seen, np.int64)),
        }

    @torch.no_grad()
    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Propagates once, and keeps what scoring needs."""
        assert self.model is not None
        _, items, before = self.model.propagated()
        self.table = functional.normalize(items, dim=-1).cpu()
        self.parts = (before / self.degree.to(before.device).sqrt()[:, None]).cpu()
        self.served_scale = self.model.log_scale.exp().cpu()

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Loads the best weights and propagates."""
        assert self.model is not None
        self.model.cpu().load_state_dict(weights)
        self.refresh(self.model, None)

    @torch.no_grad()
    def context_vectors(self, batch: ContextBatch) -> Tensor:
        """Scaled queries (B, D); zeros for an empty history."""
        folded = decayed_sum(torch.from_numpy(batch.seen), self.parts, self.decay)
        return self.served_scale * functional.normalize(folded, dim=-1)

    def score(self, batch: ContextBatch) -> Tensor:
        """Scaled cosines (B, N)."""
        return self.context_vectors(batch) @ self.table.T

    def item_vectors(self) -> Tensor | None:
        """Unit propagated item vectors (N, D)."""
        return self.table

    def save(self, folder: Path) -> None:
        """Writes both item tables and the scale."""
        tensors = {"table": self.table, "parts": self.parts, "scale": self.served_scale}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")

    def load(self, folder: Path) -> Self:
        """Reads them."""
        found = load_file(folder / "model.safetensors")
        self.table, self.parts, self.served_scale = found["table"], found["parts"], found["scale"]
        return self
