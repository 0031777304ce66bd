"""What the built-in students share: two item tables, decayed pools, cosine logits, a bias, a ridge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.tensors import history_pools


class TableStudent(nn.Module):
    """Base of students: a history is read from one item table and scored against another, or the same one.

    score_i = query . out_i + bias_i, with query = scale * norm(raw query) and unit rows out_i where `cosine` is on,
    query = scale * raw query and the rows as they are where it is off. The scale is learned; the biases start at zero,
    so popularity has to be earned by the data and not inherited.
    """

    def __init__(
        self,
        n_items: int,
        inputs: nn.Module,
        outputs: nn.Module,
        decays: Sequence[float] = (),
        scale: float = 16.0,
        cosine: bool = True,
        item_dropout: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        """Builds the shared part.

        Args:
            n_items: Catalogue size N.
            inputs: A call without arguments gives the history side's vectors (N, D).
            outputs: The same for the candidates; `inputs` itself ties them.
            decays: Starting time constants of the pools, in items; none for students without pools.
            scale: Starting value of the learned logit scale.
            cosine: Unit rows and queries.
            item_dropout: Share of history items left out in training.
            l2: Ridge strength on the rows of the tables, see `ridge`.
        """
        super().__init__()
        self.n_items = n_items
        self.inputs, self.outputs = inputs, outputs
        self.bias = nn.Parameter(torch.zeros(n_items))
        if decays:
            self.log_decay = nn.Parameter(torch.tensor(list(decays)).log())
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.cosine, self.item_dropout, self.l2 = cosine, item_dropout, l2

    def history_vectors(self) -> Tensor:
        """The vectors (N, D) that histories are read from."""
        tied = self.inputs is self.outputs  # then the candidates' side carries the ridge
        return self._rows(self.inputs, 0.0 if tied else self.l2)

    def item_table(self) -> Tensor:
        """Item vectors (N, D) to multiply with the query; unit rows where cosine is on."""
        return self._rows(self.outputs, self.l2)

    def item_bias(self) -> Tensor:
        """Item biases (N,)."""
        return self.bias

    def pools(self, history: Tensor) -> Tensor:
        """Decayed means (B, K, D) of the history's vectors, some items left out in training."""
        dropped = self.item_dropout if self.training else 0.0
        return history_pools(history, self.history_vectors(), self.log_decay.exp(), dropped)

    def scaled(self, query: Tensor) -> Tensor:
        """Queries (B, D) times the logit scale, of unit length before it where cosine is on."""
        return self.log_scale.exp() * (functional.normalize(query, dim=-1) if self.cosine else query)

    def _rows(self, table: nn.Module, l2: float) -> Tensor:
        rows = table()
        if l2 and self.training:
            rows = ridge(rows, l2)
        return functional.normalize(rows, dim=-1) if self.cosine else rows


def even_mix(count: int) -> nn.Parameter:
    """Weights (K,) of the pools' sum, even at the start."""
    return nn.Parameter(torch.full((count,), 1.0 / count))


def history_rows(history: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of a history, item by item, for students that read it in order.

    Args:
        history: Item indices (B, L), padded with N or more.
        table: Item vectors (N, D).

    Returns:
        Vectors (B, L, D), zeros where there is no item, and where there is one, bool (B, L).
    """
    inside = history < table.shape[0]
    rows = functional.embedding(torch.where(inside, history, 0), table)
    return rows * inside[:, :, None].to(rows.dtype), inside


def without_some(history: Tensor, n_items: int, dropped: float) -> Tensor:
    """Histories (B, L) with a share of the items replaced by padding; one that would be empty stays whole."""
    if not dropped:
        return history
    inside = history < n_items
    remaining = inside & (torch.rand(history.shape, device=history.device) >= dropped)
    remaining = torch.where(remaining.any(1, keepdim=True), remaining, inside)
    return torch.where(remaining, history, n_items)


class _Ridge(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, l2: float) -> Tensor:
        context.save_for_backward(rows)
        context.l2 = l2
        return rows.view_as(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = context.saved_tensors
        return gradients[0] + context.l2 * rows, None


def ridge(rows: Tensor, l2: float) -> Tensor:
    """`rows` unchanged, with the gradient of l2 / 2 * |rows|^2 added on the way back.

    Losses see a student's scores only, so a penalty on its vectors has to travel with the vectors. Unlike the
    optimiser's decoupled weight decay, it reaches the folded rows: text part and id part together. Rows that are made
    unit afterwards (cosine logits) score the same at any length; there the ridge acts on the size of the steps alone.
    """
    return _Ridge.apply(rows, l2)
