"""Neural matrix factorisation as a student: a factorisation retrieves, an MLP over pairs reranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import UserError
from students.heads import TableStudent, even_mix
from students.item_table import ItemTable, Start, TextUse, item_tables

BLOCK = 2**18  # pairs of a context and an item worked on at once: they stay in the cache


class NeuMF(TableStudent):
    """score_i = scale * [u' (h * out_i) + sum_m w_m relu(p_m + q_im)] + b_i: GMF plus an MLP over the pair.

    u is a decayed mean of the history's vectors, p = W_u pools + c the user's half of the MLP's hidden layer and q_i
    the item's half, a table of its own. Since the first layer of an MLP over [user, item] is a sum of the two halves,
    nothing is multiplied pair by pair. It is one hidden layer, so that training can score the whole catalogue. w starts
    at zero: a new student is its GMF part.

    GMF and bias are a dot product and retrieve; what the MLP adds is a `correction` of pairs. At serving the
    `candidates` best of the first are corrected, in the same graph.

    References:
        He et al. 2017, "Neural collaborative filtering", eq. 9 to 12, with separate vectors for GMF and MLP on the
        items' side, a history in place of the user's id, and cosines in GMF.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        hidden: int = 32,
        candidates: int = 200,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 16.0,
        cosine: bool = True,
        dropout: float = 0.05,
        item_dropout: float = 0.05,
        tied: bool = False,
        text: TextUse = "init",
        start: Start = "events",
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of the tables of the factorisation.
            hidden: H, width of the MLP's hidden layer.
            candidates: Items that the exported graph retrieves and reranks.
            decays: Starting time constants of the pools, in items.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the pools, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates in the factorisation.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            item_vectors: Text vectors (N, T) from the teacher.

        Raises:
            UserError: There are no candidates, or no hidden layer.
        """
        if candidates < 1 or hidden < 1:
            raise UserError(f"student 'neumf': candidates is {candidates}, hidden {hidden}; both must be 1 or more.")
        tables = item_tables(n_items, dim, item_vectors, text, 0, tied, start)
        super().__init__(n_items, *tables, decays, scale, cosine, item_dropout)
        self.candidates, self.dim = candidates, dim
        self.mix = even_mix(len(decays))
        self.dropout = nn.Dropout(dropout)
        self.turn = nn.Parameter(torch.ones(dim))
        self.user_half = nn.Linear(len(decays) * dim, hidden)
        self.item_half = ItemTable(n_items, hidden, item_vectors, text)
        self.weights = nn.Parameter(torch.zeros(hidden))

    def encode(self, history: Tensor) -> Tensor:
        """States (B, D + H) for histories (B, L): the query, times the logit scale, then the user's half of the MLP."""
        mean, pools = self.pools_and_mean(history, self.mix, self.dropout.p)
        query = self.scaled(self.turn * mean)
        return torch.cat([query, self.user_half(pools.flatten(1))], 1)

    def correction(self, state: Tensor, items: Tensor) -> Tensor:
        """What the MLP adds (B, C) to the dot products of states (B, D + H) and items (B, C)."""
        half = functional.embedding(items, self.item_half())
        return functional.relu(state[:, None, self.dim :] + half) @ self._weights()

    def all_corrections(self, state: Tensor) -> Tensor:
        """`correction` of the whole catalogue (B, N)."""
        corrections: Tensor = _PairSum.apply(state[:, self.dim :].float(), self.item_half().float(), self._weights())
        return corrections

    def _weights(self) -> Tensor:
        return self.log_scale.exp() * self.weights


class _PairSum(torch.autograd.Function):
    """sum_m w_m relu(a_bm + c_nm) for all b and n, without laying out (B, N, H): one hidden unit after the other."""

    @staticmethod
    def forward(context: Any, users: Tensor, items: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(users, items, weights)
        a, c = users.T.contiguous(), items.T.contiguous()
        total = users.new_zeros(len(users), len(items))
        for part in _blocks(*total.shape):
            block = torch.zeros_like(total[:, part])
            both = torch.empty_like(block)
            for unit, weight in enumerate(weights.tolist()):
                torch.add(a[unit][:, None], c[unit, part], out=both)
                block.add_(both.relu_(), alpha=weight)
            total[:, part] = block
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        users, items, weights = context.saved_tensors
        a, c = users.T.contiguous(), items.T.contiguous()
        by_user, by_item = torch.zeros_like(a), torch.zeros_like(c)  # sums of the gradients where the unit is on
        for part in _blocks(*gradients[0].shape):
            block = gradients[0][:, part].contiguous()
            both = torch.empty_like(block)
            rows, columns = block.new_ones(block.shape[0]), block.new_ones(block.shape[1])
            for unit in range(len(weights)):
                torch.add(a[unit][:, None], c[unit, part], out=both)
                on = torch.ops.aten.threshold_backward(block, both, 0)  # the gradient where both > 0, in one pass
                by_user[unit] += on @ columns  # products sum faster than sums do
                by_item[unit, part] = rows @ on
        of_weights = (by_user * a).sum(1) + (by_item * c).sum(1)
        return (by_user * weights[:, None]).T, (by_item * weights[:, None]).T, of_weights


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, BLOCK // max(1, rows))
    return [slice(first, first + step) for first in range(0, columns, step)]
