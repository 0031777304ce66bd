"""The flagship student: decayed history pools and an MLP over collaborative-filtering item tables."""

from __future__ import annotations

from torch import Tensor, nn

from students.heads import TableStudent, even_mix
from students.hidden_layer import hidden_layer
from students.item_table import Start, TextUse, item_tables
from students.tail_expert import with_tail_expert


class HybridCF(TableStudent):
    """Weighted history pools with learned decays, corrected by an MLP, scored by cosine against an item table.

    pool_k = sum_j exp(-age_j / tau_k) in(item_j) / sum_j exp(-age_j / tau_k), age 0 for the latest item;
    query = norm(sum_k a_k pool_k + MLP(pools)); score_i = scale * query . norm(out_i) + bias_i.

    The MLP's last layer and the biases start at zero, so training starts from the pools alone. There is no user table:
    new users and new clicks need no training.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        hidden: int = 128,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 16.0,
        cosine: bool = True,
        dropout: float = 0.05,
        item_dropout: float = 0.05,
        tied: bool = False,
        text: TextUse = "init",
        start: Start = "events",
        buckets: int = 0,
        cold: bool = False,
        id_dropout: float = 0.5,
        tail_expert: bool = False,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of both item tables.
            hidden: Width of the MLP's hidden layer.
            decays: Starting values of the pools' time constants, in items.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the pools, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates: half the size, and better where items have few events.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            buckets: Rows of the hashed id part; 0 is one an item.
            cold: Serve items without train events from their text alone, see `TableStudent`.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
            tail_expert: Mix into the rows of items with few events what their text says, see `TailExpert`; without
                effect without text vectors.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        tables: tuple[nn.Module, nn.Module] = item_tables(n_items, dim, item_vectors, text, buckets, tied, start)
        if tail_expert and item_vectors is not None:
            tables = with_tail_expert(*tables, item_vectors, dim)
        super().__init__(n_items, *tables, decays, scale, cosine, item_dropout, 0.0, cold, id_dropout)
        self.mix = even_mix(len(decays))
        self.dropout = nn.Dropout(dropout)
        self.expand = nn.Linear(len(decays) * dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        mean, pools = self.pools_and_mean(history, self.mix, self.dropout.p)  # (B, D), (B, K, D)
        return self.scaled(mean + hidden_layer(pools.flatten(1), self.expand, self.contract))
