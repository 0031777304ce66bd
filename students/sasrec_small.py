"""A small self-attentive student: it reads the order of the last items."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import UserError
from students.heads import TableStudent, history_rows, without_some
from students.item_table import Start, TextUse, item_tables


class SelfAttentionBlock(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)); the last layer of each starts at zero, so a new block is identity."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        """Builds the block.

        Args:
            dim: Width D, a multiple of `heads`.
            heads: Attention heads H.
            dropout: On attention weights and on what each half adds, in training.
        """
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_query, self.to_key, self.to_value = (nn.Linear(dim, dim) for _ in range(3))
        self.join = nn.Linear(dim, dim)
        self.expand, self.contract = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        for layer in (self.join, self.contract):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, allowed: Tensor, last: bool) -> Tensor:
        """States after the block.

        Args:
            x: States (B, L, D).
            allowed: Which place may look at which, bool (B, L, L).
            last: Compute the last place alone: (B, 1, D). The last block needs no other, at 1 / L of the cost.
        """
        normed = self.before_attention(x)
        if last:
            x, allowed = x[:, -1:], allowed[:, -1:]
        query = self._split(self.to_query(normed[:, -1:] if last else normed))
        key, value = self._split(self.to_key(normed)), self._split(self.to_value(normed))
        dropped = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, allowed[:, None], dropped)
        x = x + self._dropped(self.join(mixed.transpose(1, 2).flatten(2)))
        return x + self._dropped(self.contract(functional.gelu(self.expand(self.before_mlp(x)))))

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, H, L, D / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class SASRecSmall(TableStudent):
    """One or two causal self-attention blocks over the last items; the state at the latest item is the query.

    Places are counted from the end (0 is the latest item) and padding is never looked at, so padding a history changes
    nothing; items older than `length` aren't looked at either. The blocks start as the identity: a new student
    recommends what is near the latest item, and learns to look further back.

    References:
        Kang & McAuley 2018, "Self-attentive sequential recommendation", with normalisation before each half (pre-norm),
        places counted from the end, full softmax and cosine logits.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        scale: float = 16.0,
        cosine: bool = True,
        dropout: float = 0.2,
        item_dropout: float = 0.05,
        tied: bool = True,
        text: TextUse = "init",
        start: Start = "events",
        buckets: int = 0,
        cold: bool = False,
        id_dropout: float = 0.5,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of the tables and of the blocks, a multiple of `heads`.
            blocks: Self-attention blocks.
            heads: Attention heads a block.
            length: Latest items that it looks at.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the history's vectors and inside the blocks, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            buckets: Rows of the hashed id part; 0 is one an item.
            cold: Serve items without train events from their text alone, see `TableStudent`.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
            item_vectors: Text vectors (N, T) from the teacher.

        Raises:
            UserError: `dim` is no multiple of `heads`, or there is no block or no place.
        """
        if heads < 1 or dim % heads:
            raise UserError(f"student 'sasrec_small': dim is {dim}, which {heads} heads don't divide. Change either.")
        if blocks < 1 or length < 1:
            raise UserError(f"student 'sasrec_small': blocks is {blocks}, length {length}; both must be 1 or more.")
        tables = item_tables(n_items, dim, item_vectors, text, buckets, tied, start)
        super().__init__(n_items, *tables, (), scale, cosine, item_dropout, 0.0, cold, id_dropout)
        self.length = length
        self.place = nn.Parameter(0.02 * torch.randn(length, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([SelfAttentionBlock(dim, heads, dropout) for _ in range(blocks)])

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        history = without_some(history, self.n_items, self.item_dropout if self.training else 0.0)
        rows, inside = history_rows(history, self.history_vectors())  # (B, L, D), (B, L)
        age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        x = self.dropout(rows + self.place[age.clamp_max(self.length - 1)])
        # A place sees items at or before it, and itself: a row of nothing but padding must have something to look at.
        seen = (inside & (age < self.length))[:, None, :] & (age[None, :] >= age[:, None])
        allowed = seen | (age[None, :] == age[:, None])
        for number, block in enumerate(self.blocks, 1):
            x = block(x, allowed, last=number == len(self.blocks))
        return self.scaled(x[:, -1])
