"""A transformer over item tokens beside decayed pools of the history, scored against tied item vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel as Body

from distill.job import Batch
from teachers.sampled import full_softmax, sampled_softmax
from teachers.sequence_open import run_body


class SequenceModel(nn.Module):
    """query_t = scale * norm(sum_k a_k pool_k(e)_t + out(body(into(e))_t)), asked of e_i = norm(W t_i + id_i).

    The body's projection `out` starts at zero, as W starts at the identity and the ids at zero: at first the model is
    the text space's own, and what the body adds it has to earn. Without a body (`body` None) the pools stay alone.

    Histories are left-aligned: N stands for an item left out, N + 1 is padding on the right.
    """

    text: Tensor

    def __init__(
        self,
        text: Tensor,
        body: Body | None,
        size: float,
        causal: bool,
        given: bool,
        decays: Sequence[float] = (1.0, 4.0, 20.0),
        scale: float = 20.0,
        dropout: float = 0.3,
        item_dropout: float = 0.0,
        smoothing: float = 0.0,
        mlp: bool = False,
    ) -> None:
        """Settings.

        Args:
            text: Unit item vectors to start from (N, d).
            body: A transformer that reads vectors; None for the pools alone.
            size: Root mean square of what the body reads.
            causal: Every place asks for the item after it; otherwise for the item that is left out there.
            given: The body must be handed a mask against looking ahead.
            decays: Starting time constants of the pools.
            scale: Starting logit scale.
            dropout: On queries, in training.
            item_dropout: Share of the items left out in training, where every place asks for the next item.
            smoothing: Label smoothing.
            mlp: Adds an MLP over the pools, starting at zero, as `TextSpaceModel` has it.
        """
        super().__init__()
        self.n_items, width = text.shape
        self.causal, self.given = causal, given
        self.gate = body is not None  # whether the body has a say
        self.item_dropout, self.smoothing = item_dropout, smoothing
        self.register_buffer("text", text)
        self.projection = nn.Parameter(torch.eye(width))
        self.identity = nn.Parameter(torch.zeros(self.n_items, width))
        self.log_decay = nn.Parameter(torch.tensor(list(decays)).log())
        self.mix = nn.Parameter(torch.full((len(decays),), 1.0 / len(decays)))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.dropout = nn.Dropout(dropout)
        self.mlp = None
        if mlp:
            last = nn.Linear(256, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.Linear(len(decays) * width, 256), nn.GELU(), last)
        self.body = body
        if body is not None:
            hidden = body.config.hidden_size
            self.into = nn.Linear(width, hidden)
            self.left_out = nn.Parameter(size * torch.randn(hidden))
            self.out = nn.Linear(hidden, width)
            nn.init.normal_(self.into.weight, std=size)  # item vectors have unit length
            for zero in (self.into.bias, self.out.weight, self.out.bias):
                nn.init.zeros_(zero)

    def freeze_base(self) -> None:
        """Leaves item vectors and pools as they are; only the scale still adapts to what the body adds."""
        for parameter in (self.projection, self.identity, self.log_decay, self.mix):
            parameter.requires_grad_(False)
        if self.mlp is not None:
            self.mlp.requires_grad_(False)

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """Unit vectors of some items (…,) or of all, (…, d), float32."""
        text, identity = (self.text, self.identity) if items is None else (self.text[items], self.identity[items])
        return functional.normalize((text @ self.projection + identity).float(), dim=-1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The training loss, or queries where there are no labels.

        Args:
            batch: history (B, L). With label (B, L), -1 where nothing is asked, also before (B, M), what was seen
                before the window, padded with N; and with items (C,) and log_weight (C,) a sample that stands for
                the catalogue. Without labels: places (B', 2), rows of the batch and places in them, and perhaps
                table (N, d).

        Returns:
            `{"loss": scalar}`, or `{"queries": (B', d), "table": (N, d)}`.
        """
        history = batch["history"]
        with torch.autocast(history.device.type, enabled=False):
            sampled = "items" in batch
            table = batch["table"] if "table" in batch else None if sampled else self.vectors()
            x = self._read(history, table)
        if "label" not in batch:
            row, place = batch["places"].T
            queries = self.queries(history, x, row, place)
            return {"queries": queries, "table": table if table is not None else self.vectors()}
        label = batch["label"]
        row, place = torch.nonzero(label >= 0, as_tuple=True)
        wanted = label[row, place]
        queries = self.queries(history, x, row, place)
        with torch.autocast(history.device.type, enabled=False):
            candidates = table if table is not None else self.vectors(batch["items"])
            scores = queries @ candidates.T  # (M, N) or (M, C)
            seen = self._seen(history, batch, len(candidates))[row]
            scores = scores.masked_fill(seen <= place[:, None] if self.causal else seen < history.shape[1], -torch.inf)
            if not sampled:
                return {"loss": full_softmax(scores, wanted, self.smoothing)}
            scores = scores.masked_fill(batch["items"] == wanted[:, None], -torch.inf)
            positive = (queries * self.vectors(wanted)).sum(-1)
            return {"loss": sampled_softmax(positive, scores, batch["log_weight"], self.smoothing)}

    def queries(self, history: Tensor, x: Tensor, row: Tensor, place: Tensor) -> Tensor:
        """Scaled queries (M, d) at some places of histories (B, L) of item vectors (B, L, d)."""
        kept = history < self.n_items
        if self.training and self.item_dropout and self.causal:
            remaining = kept & (torch.rand(history.shape, device=history.device) >= self.item_dropout)
            kept = torch.where(remaining.any(1, keepdim=True), remaining, kept)
        with torch.autocast(history.device.type, enabled=False):
            pools = self._pools(kept, x)[row, place]  # (M, K, d)
            query = (self.mix.float()[:, None] * pools).sum(1)
        if self.mlp is not None:
            query = query + self.mlp(pools.flatten(1).to(self.mix.dtype)).float()
        if self.body is not None and self.gate:
            inside = history <= self.n_items
            read = torch.where(kept[..., None], self.into(x.to(self.into.weight.dtype)), self.left_out)
            hidden = run_body(self.body, read.to(self.left_out.dtype), inside, self.given, not self.causal)
            query = query + self.out(hidden[row, place]).float()
        return self.log_scale.float().exp() * functional.normalize(self.dropout(query), dim=-1)

    def _read(self, history: Tensor, table: Tensor | None) -> Tensor:
        """Item vectors (B, L, d), zeros where there is no item."""
        inside = history < self.n_items
        index = torch.where(inside, history, 0)
        found = self.vectors(index) if table is None else functional.embedding(index, table)
        return found * inside[..., None]

    def _pools(self, kept: Tensor, x: Tensor) -> Tensor:
        """Weighted means of the items up to each place, or before it where it is itself asked for, (B, L, K, d)."""
        place = torch.arange(kept.shape[1], device=kept.device)
        age = place[:, None] - place - (0 if self.causal else 1)  # (L, L)
        decay = self.log_decay.float().exp()[:, None]
        weights = torch.exp(-age.clamp_min(0)[:, None] / decay) * (age >= 0)[:, None] * kept[:, None, None]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)  # (B, L, K, L)
        return (weights.flatten(1, 2) @ x).unflatten(1, weights.shape[1:3])

    def _seen(self, history: Tensor, batch: Batch, count: int) -> Tensor:
        """At which place each candidate was first seen (B, C): -1 before the window, L where never."""
        columns = torch.arange(self.n_items + 2, device=history.device)
        if "items" in batch:
            columns = torch.full_like(columns, count)
            columns[batch["items"]] = torch.arange(count, device=history.device)
        columns[self.n_items :] = count
        length = history.shape[1]
        first = torch.full((len(history), count + 1), length, device=history.device)
        place = torch.arange(length, device=history.device).expand_as(history)
        first.scatter_reduce_(1, columns[history], place, "amin")
        first.scatter_(1, columns[batch["before"]], -1)
        return first[:, :count]
