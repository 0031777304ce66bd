"""SASRec: causal self-attention over the history, every place a training example."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN
from distill.errors import UserError
from distill.job import Batch, Job
from teachers.protocol import Inputs
from teachers.text_space import centred, principal
from teachers.training import Training


class SASRecModel(nn.Module):
    """Item vectors plus places, causal pre-norm blocks, cosine logits with a learned scale, biases that start at 0.

    Places are counted from the start of the user's window, as a pass over all prefixes at once needs it; which part of
    a longer sequence is the window is decided by `collate`.
    """

    def __init__(
        self, n_items: int, dim: int, blocks: int, heads: int, length: int, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.n_items, self.heads = n_items, heads
        self.items = nn.Parameter(torch.randn(n_items, dim) / dim**0.5)
        self.place = nn.Parameter(0.02 * torch.randn(length, dim))
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, "gelu", batch_first=True, norm_first=True)
            for _ in range(blocks)
        )

    def table(self) -> Tensor:
        """Unit item vectors (N, D)."""
        return functional.normalize(self.items, dim=-1)

    def states(self, history: Tensor, table: Tensor) -> Tensor:
        """Scaled queries (B, L, D) at every place of left-aligned histories (B, L), padded on the right with N."""
        length = history.shape[1]
        inside = history < self.n_items
        x = functional.embedding(torch.where(inside, history, 0), table)
        x = self.dropout(x + self.place[:length])
        # Padding comes last, so the causal mask alone keeps it from everything that counts.
        causal = torch.full((length, length), -torch.inf, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, causal)
        return self.log_scale.exp() * functional.normalize(x, dim=-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Full-softmax cross-entropy on the next item of every place, the items seen until there masked.

        Args:
            batch: history (B, L) and label (B, L), -1 where there is none; places before a window count as seen through
                `before` (B, M), padded with N.
        """
        history, label = batch["history"], batch["label"]
        table = self.table()
        row, place = torch.nonzero(label >= 0, as_tuple=True)  # (M,)
        scores = self.states(history, table)[row, place] @ table.T + self.bias
        first_seen = _first_places(history, batch["before"], self.n_items)  # (B, N)
        scores = scores.masked_fill(first_seen[row] <= place[:, None], -torch.inf)
        return {"loss": functional.cross_entropy(scores, label[row, place])}


def _first_places(history: Tensor, before: Tensor, n_items: int) -> Tensor:
    """At which place of its row each item appears first (B, N): -1 before the window, L where never."""
    length = history.shape[1]
    first = torch.full((len(history), n_items + 1), length, device=history.device)
    place = torch.arange(length, device=history.device).expand_as(history)
    first.scatter_reduce_(1, history, place, "amin")
    first.scatter_(1, before, -1)
    return first[:, :n_items]


class SASRec:
    """The member around `SASRecModel`; it trains in the main process.

    References:
        Kang & McAuley 2018, "Self-attentive sequential recommendation"; full softmax in place of one sampled negative
        after Klenitskiy & Vasilev 2023, "Turning dross into gold loss: is BERT4Rec really better than SASRec?". Cosine
        logits and the mask of seen items are this project's.
    """

    def __init__(
        self,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 2,
        max_length: int = 50,
        scale: float = 12.0,
        dropout: float = 0.2,
        vectors: str = "",
        epochs: int = 20,
        batch_size: int = 64,
        learning_rate: float = 5e-3,
        patience: int = 4,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            dim: Width D, a multiple of `heads`.
            blocks: Self-attention blocks.
            heads: Attention heads a block.
            max_length: Longest window of a history that is read.
            scale: Starting logit scale.
            dropout: On vectors and inside the blocks, in training.
            vectors: Name of a member whose item vectors the table starts from, reduced to D directions; "": random.
            epochs: Most passes over the users; validation may stop earlier.
            batch_size: Users a step.
            learning_rate: Peak of one cycle.
            patience: Evaluations without a gain before stopping.
            seed: Added to the experiment's seed.

        Raises:
            UserError: `dim` is no multiple of `heads`.
        """
        if heads < 1 or dim % heads:
            raise UserError(f"sasrec: dim is {dim}, which {heads} heads don't divide. Change either.")
        self.dim = dim
        self.make = partial(
            SASRecModel, dim=dim, blocks=blocks, heads=heads, length=max_length, scale=scale, dropout=dropout
        )
        self.max_length, self.vectors, self.seed = max_length, vectors, seed
        self.training = Training(epochs, batch_size, learning_rate, patience)
        self.model: SASRecModel | None = None
        self.served: Tensor | None = None

    def prepare(self, inputs: Inputs) -> None:
        """Builds the model and cuts every user's train sequence into windows."""
        seed = inputs.seed + self.seed
        torch.manual_seed(seed)
        self.model = self.make(inputs.dataset.n_items)
        if self.vectors:
            self._start_from(inputs.vectors)
        self.training = replace(self.training, seed=seed)
        self.lists = inputs.dataset.lists(TRAIN, TRAIN)
        self.windows = windows(self.lists.indptr, self.max_length)

    def _start_from(self, vectors: dict[str, Tensor]) -> None:
        if self.vectors not in vectors:
            known = ", ".join(vectors) or "none yet"
            raise UserError(
                f"sasrec: 'vectors: {self.vectors}' names no earlier member with item vectors (there are: {known})."
            )
        assert self.model is not None
        start = principal(centred(vectors[self.vectors].float()), self.dim)
        with torch.no_grad():
            self.model.items[:, : start.shape[1]] = start

    def job(self) -> Job | None:
        """Training on windows; every place of a window is an example."""
        assert self.model is not None
        return self.training.job(self.model, np.arange(len(self.windows)), self._collate)

    def _collate(self, rows: np.ndarray) -> Batch:
        start, first, stop = self.windows[rows].T  # the user's first event, the window's, its end (a label)
        n_items = self.model.n_items if self.model else 0
        window = _padded(self.lists.items, first, stop, n_items)
        label = window[:, 1:].clone()
        label[label == n_items] = -1
        return {
            "history": window[:, :-1].contiguous(),
            "label": label,
            "before": _padded(self.lists.items, start, first, n_items),
        }

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Keeps the table."""
        assert self.model is not None
        self.served = self.model.table().detach()

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Loads the best weights."""
        assert self.model is not None
        self.model.cpu().load_state_dict(weights)
        self.model.eval()
        self.served = self.model.table().detach()

    @torch.no_grad()
    def context_vectors(self, batch: ContextBatch) -> Tensor:
        """Scaled queries (B, D) at the latest item; zeros for an empty history."""
        assert self.model is not None and self.served is not None
        self.model.eval()
        n_items = self.model.n_items
        seen = batch.seen[:, -self.max_length :]
        count = (seen < n_items).sum(1)
        width = max(1, int(count.max(initial=1)))
        places = seen.shape[1] - count[:, None] + np.arange(width)
        left = np.where(
            places < seen.shape[1], np.take_along_axis(seen, places.clip(max=seen.shape[1] - 1), 1), n_items
        )
        states = self.model.states(torch.from_numpy(left).to(self.served.device), self.served)
        lengths = torch.from_numpy(count).to(self.served.device)
        latest = states[torch.arange(len(left)), (lengths - 1).clamp_min(0)]
        return latest * (lengths > 0)[:, None]

    def score(self, batch: ContextBatch) -> Tensor:
        """Scaled cosines plus biases (B, N)."""
        assert self.model is not None and self.served is not None
        return self.context_vectors(batch) @ self.served.T + self.model.bias.detach()

    def item_vectors(self) -> Tensor | None:
        """Unit item vectors (N, D)."""
        return self.served

    def save(self, folder: Path) -> None:
        """Writes the weights and the size of the catalogue."""
        assert self.model is not None
        save_file({k: v.contiguous() for k, v in self.model.state_dict().items()}, folder / "model.safetensors")
        (folder / "sasrec.json").write_text(json.dumps({"n_items": self.model.n_items}))

    def load(self, folder: Path) -> Self:
        """Reads the weights."""
        self.model = self.make(json.loads((folder / "sasrec.json").read_text())["n_items"])
        self.finish(load_file(folder / "model.safetensors"))
        return self


def windows(indptr: np.ndarray, length: int) -> np.ndarray:
    """Cuts sequences into windows of at most `length` inputs and their labels, counted from the end.

    Each event but the first of its sequence is a label once.

    Args:
        indptr: Bounds of the sequences (U + 1,).
        length: Longest window.

    Returns:
        int64 (W, 3): where the sequence starts, where the window starts, and its end; events first..stop - 2 are the
        inputs, first + 1..stop - 1 the labels.
    """
    steps = np.diff(indptr) - 1  # labels a user
    count = np.maximum(0, -(-steps // length))
    user = np.repeat(np.arange(len(steps)), count)
    number = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)  # 0 is the latest window
    stop = indptr[1:][user] - number * length
    first = np.maximum(indptr[:-1][user], stop - 1 - length)
    return np.stack([indptr[:-1][user], first, stop], 1).astype(np.int64)


def _padded(items: np.ndarray, first: np.ndarray, stop: np.ndarray, fill: int) -> Tensor:
    """items[first:stop] of each row, left-aligned and padded on the right with `fill`, int64 (B, L), L >= 1."""
    width = max(1, int((stop - first).max(initial=1)))
    places = first[:, None] + np.arange(width)
    inside = places < stop[:, None]
    return torch.from_numpy(np.where(inside, items[np.where(inside, places, 0)], fill).astype(np.int64))
