"""The flagship student: decayed history pools and an MLP over collaborative-filtering item tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.tensors import history_pools
from students.item_table import ItemTable


class HybridCF(nn.Module):
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
        dropout: float = 0.05,
        item_dropout: float = 0.05,
        tied: bool = False,
        use_text: bool = True,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of both item tables.
            hidden: Width of the MLP's hidden layer.
            decays: Starting values of the pools' time constants, in items.
            scale: Starting value of the learned logit scale.
            dropout: On the pools, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates: half the size, and better where items have few events.
            use_text: Start the tables from `item_vectors` where there are any.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        super().__init__()
        text = item_vectors if use_text else None
        self.n_items, self.dim = n_items, dim
        self.inputs = ItemTable(n_items, dim, text)
        self.outputs = self.inputs if tied else ItemTable(n_items, dim, text)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.log_decay = nn.Parameter(torch.tensor(list(decays)).log())
        self.mix = nn.Parameter(torch.full((len(decays),), 1.0 / len(decays)))
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.dropout = nn.Dropout(dropout)
        self.item_dropout = item_dropout
        self.expand = nn.Linear(len(decays) * dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        table = functional.normalize(self.inputs(), dim=-1)
        dropped = self.item_dropout if self.training else 0.0
        pools = history_pools(history, table, self.log_decay.exp(), dropped)  # (B, K, D)
        pools = self.dropout(pools)
        query = (self.mix[:, None] * pools).sum(1) + self.contract(functional.gelu(self.expand(pools.flatten(1))))
        return self.log_scale.exp() * functional.normalize(query, dim=-1)

    def item_table(self) -> Tensor:
        """Unit item vectors (N, D)."""
        return functional.normalize(self.outputs(), dim=-1)

    def item_bias(self) -> Tensor:
        """Item biases (N,)."""
        return self.bias
