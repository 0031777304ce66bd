"""A history model over trainable item vectors that start as text vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.data.contexts import ContextBatch, train_contexts
from distill.errors import UserError
from distill.job import Batch, Job
from distill.tensors import history_pools, mask_seen, next_item_batch, shuffled
from teachers.protocol import Inputs


class TextSpaceModel(nn.Module):
    """e_i = norm(W t_i + id_i), W from the identity, id from zero; query = norm(sum_k a_k pool_k(e)), learned decays.

    Input and output tables are tied: recommending stays a walk in the text space, so items with few or no interactions
    keep a place in it.
    """

    text: Tensor

    def __init__(
        self,
        text: Tensor,
        decays: tuple[float, ...],
        scale: float,
        dropout: float,
        item_dropout: float,
        mlp: bool,
    ) -> None:
        super().__init__()
        n_items, width = text.shape
        self.n_items = n_items
        self.register_buffer("text", text)
        self.projection = nn.Parameter(torch.eye(width))
        self.identity = nn.Parameter(torch.zeros(n_items, width))
        self.log_decay = nn.Parameter(torch.tensor(decays).log())
        self.mix = nn.Parameter(torch.full((len(decays),), 1.0 / len(decays)))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.dropout, self.item_dropout = nn.Dropout(dropout), item_dropout
        self.mlp = None
        if mlp:
            last = nn.Linear(256, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(len(decays) * width, 256), nn.GELU(), last)

    def table(self) -> Tensor:
        """Unit item vectors (N, d)."""
        return functional.normalize(self.text @ self.projection + self.identity, dim=-1)

    def query(self, history: Tensor, table: Tensor) -> Tensor:
        """Scaled queries (B, d) for histories (B, L)."""
        pools = history_pools(history, table, self.log_decay.exp(), self.item_dropout if self.training else 0.0)
        query = (self.mix[:, None] * pools).sum(1)
        if self.mlp is not None:
            query = query + self.mlp(pools.flatten(1))
        return self.log_scale.exp() * functional.normalize(self.dropout(query), dim=-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Full-softmax cross-entropy on the next item, seen items masked."""
        table = self.table()
        scores = mask_seen(self.query(batch["history"], table) @ table.T, batch["seen"])
        return {"loss": functional.cross_entropy(scores, batch["label"])}


class TextSpace:
    """The member around `TextSpaceModel`; it trains in seconds, in the main process."""

    def __init__(
        self,
        vectors: str,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 20.0,
        dropout: float = 0.5,
        item_dropout: float = 0.5,
        mlp: bool = False,
        width: int = 0,
        max_length: int = 50,
        epochs: int = 8,
        rows_per_epoch: int = 100_000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        patience: int = 3,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            vectors: Name of the member whose item vectors it starts from.
            decays: Starting time constants of the history pools, in items.
            scale: Starting logit scale.
            dropout: On the query, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            mlp: Adds an MLP over the pools, starting at zero.
            width: Reduces the text vectors to so many principal components, for speed; 0 keeps them whole.
            max_length: Longest history read.
            epochs: Most passes over the train contexts; validation may stop earlier.
            rows_per_epoch: An epoch is a random sample of at most so many train contexts; 0 takes all.
            batch_size: Contexts a step.
            learning_rate: Peak of one cycle.
            patience: Evaluations without a gain before stopping.
            seed: Added to the experiment's seed, to make members that differ by seed alone.
        """
        self.vectors, self.decays, self.scale, self.mlp = vectors, tuple(decays), scale, mlp
        self.dropout, self.item_dropout = dropout, item_dropout
        self.width = width
        self.max_length, self.epochs, self.batch_size = max_length, epochs, batch_size
        self.rows_per_epoch = rows_per_epoch
        self.learning_rate, self.patience, self.seed = learning_rate, patience, seed
        self.model: TextSpaceModel | None = None
        self.served: Tensor | None = None

    def prepare(self, inputs: Inputs) -> None:
        """Builds the model and lists the labelled contexts."""
        if self.vectors not in inputs.vectors:
            known = ", ".join(inputs.vectors) or "none yet"
            raise UserError(
                f"text_space: 'vectors: {self.vectors}' names no earlier member with item vectors (there are: {known})."
            )
        torch.manual_seed(inputs.seed + self.seed)
        text = centred(inputs.vectors[self.vectors].float())
        if 0 < self.width < text.shape[1]:
            text = principal(text, self.width)
        self.model = self._model(text)
        contexts = train_contexts(inputs.dataset)
        self.contexts, self.rows = contexts, np.flatnonzero(contexts.target >= 0)
        self.random_seed = inputs.seed + self.seed

    def _model(self, text: Tensor) -> TextSpaceModel:
        return TextSpaceModel(text, self.decays, self.scale, self.dropout, self.item_dropout, self.mlp)

    def job(self) -> Job | None:
        """Training on every train prefix."""
        assert self.model is not None
        return Job(
            model=self.model,
            batches=lambda epoch: shuffled(self.rows, self.batch_size, self.random_seed, epoch, self.rows_per_epoch),
            collate=lambda rows: next_item_batch(self.contexts, rows, self.max_length),
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            patience=self.patience,
        )

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Folds the table."""
        assert self.model is not None
        self.served = self.model.table().detach()

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Loads the best weights and folds the table."""
        assert self.model is not None
        self.model.cpu().load_state_dict(weights)
        self.model.eval()
        self.served = self.model.table().detach()

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Scaled cosines (B, N)."""
        assert self.served is not None
        return self.context_vectors(batch) @ self.served.T

    @torch.no_grad()
    def context_vectors(self, batch: ContextBatch) -> Tensor:
        """Scaled queries (B, d): what `score` multiplies with the item table."""
        assert self.model is not None and self.served is not None
        return self.model.query(torch.from_numpy(batch.seen[:, -self.max_length :]).to(self.served.device), self.served)

    def item_vectors(self) -> Tensor | None:
        """The folded table (N, d)."""
        return self.served

    def save(self, folder: Path) -> None:
        """Writes the weights."""
        assert self.model is not None
        save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, folder / "model.safetensors")

    def load(self, folder: Path) -> Self:
        """Reads the weights."""
        weights = load_file(folder / "model.safetensors")
        self.model = self._model(weights["text"])
        self.finish(weights)
        return self


def centred(vectors: Tensor, share: float = 0.5) -> Tensor:
    """Unit vectors after subtracting a share of their mean: text vectors crowd in a cone, which flattens cosines."""
    return functional.normalize(vectors - share * vectors.mean(0), dim=-1)


def principal(vectors: Tensor, width: int) -> Tensor:
    """Unit vectors (N, width) on the first principal directions of vectors (N, d); the mean is kept, not subtracted."""
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    return functional.normalize(vectors @ directions[:width].T, dim=-1)
