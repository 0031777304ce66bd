"""A small recurrent student: one gated recurrent unit over the last items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import UserError
from students.heads import TableStudent, history_rows, without_some
from students.item_table import Start, TextUse, item_tables


class GRU4RecSmall(TableStudent):
    """The last state of a GRU over the history's vectors, added to the latest item's vector, is the query.

    Histories are moved to the left before the GRU and the state after the last item is taken, so padding, wherever it
    stands, never enters a state. In an exported file the GRU is ONNX's own operator with the lengths as an input.

    References:
        Hidasi et al. 2016, "Session-based recommendations with recurrent neural networks", with a full softmax, cosine
        logits and the latest item's vector added to the query.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
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
            dim: Width D of the tables and of the state.
            length: Latest items that it reads.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the history's vectors and on the state, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            buckets: Rows of the hashed id part; 0 is one an item.
            cold: Serve items without train events from their text alone, see `TableStudent`.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
            item_vectors: Text vectors (N, T) from the teacher.

        Raises:
            UserError: `length` is below 1.
        """
        if length < 1:
            raise UserError(f"student 'gru4rec_small': length is {length}, expected 1 or more.")
        tables = item_tables(n_items, dim, item_vectors, text, buckets, tied, start)
        super().__init__(n_items, *tables, (), scale, cosine, item_dropout, 0.0, cold, id_dropout)
        self.length = length
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.turn = nn.Linear(dim, dim)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        history = without_some(history, self.n_items, self.item_dropout if self.training else 0.0)
        left, count = self._to_the_left(history)
        rows, _ = history_rows(left, self.history_vectors())  # (B, L, D)
        last = (count - 1).clamp_min(0)[:, None, None].expand(-1, 1, rows.shape[2])
        known = (count > 0)[:, None].to(rows.dtype)
        dropped = self.dropout(rows)
        if torch.compiler.is_compiling():
            state = self._onnx_state(dropped, count)
        else:
            state = self.gru(dropped)[0].gather(1, last)[:, 0]
        return self.scaled(self.turn(self.dropout(state * known)) + dropped.gather(1, last)[:, 0])

    def _to_the_left(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """The latest `length` items of each history without the gaps, (B, L), and how many there are (B,)."""
        inside = history < self.n_items
        total = inside.sum(1)
        count = total.clamp_max(self.length)
        # Item number r of a row (0 is the oldest that is kept) goes to column r; what has no place to a column at the
        # end that is cut off.
        number = inside.cumsum(1) - 1 - (total - count)[:, None]
        place = torch.where(inside & (number >= 0), number, history.shape[1])
        empty = torch.full_like(history, self.n_items)
        left = torch.cat([empty, empty[:, :1]], 1).scatter(1, place, history)
        return left[:, :-1], count

    def _onnx_state(self, rows: Tensor, count: Tensor) -> Tensor:
        """The last state (B, D) as ONNX's operator, whose gates come in the order update, reset, new."""
        weights = dict(self.gru.named_parameters())
        parts = []
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            reset, update, new = weights[name].chunk(3)
            parts.append(torch.cat([update, reset, new])[None])
        inputs, states, *biases = parts
        batch, dim = rows.shape[0], rows.shape[2]
        _, last = torch.onnx.ops.symbolic_multi_out(
            "GRU",
            (rows.transpose(0, 1), inputs, states, torch.cat(biases, 1), count.clamp_min(1).to(torch.int32)),
            {"hidden_size": dim, "linear_before_reset": 1},
            dtypes=(rows.dtype, rows.dtype),
            shapes=((rows.shape[1], 1, batch, dim), (1, batch, dim)),
            version=14,
        )
        return last[0]
