"""A student whose query is an MLP's answer alone: how much of the flagship is its collaborative-filtering core?"""

from __future__ import annotations

from torch import Tensor, nn

from students.heads import TableStudent
from students.hidden_layer import hidden_layer
from students.item_table import Start, TextUse, item_tables


class MLPOnly(TableStudent):
    """query = norm(MLP(pools)), the pools decayed means of the history's vectors, without a way around the MLP.

    It is `hybrid_cf` without the sum of the pools in the query: history vectors reach the candidates through the hidden
    layer only, so the item vectors' own geometry is no starting point. The difference between the two is the worth of
    the collaborative-filtering core.

    References:
        Covington et al. 2016, "Deep neural networks for YouTube recommendations", section 3.2: an MLP over a mean of
        watch vectors.
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
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of both item tables.
            hidden: Width of the MLP's hidden layer.
            decays: Starting time constants of the pools, in items; one large number is the plain mean.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the pools, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            buckets: Rows of the hashed id part; 0 is one an item.
            cold: Serve items without train events from their text alone, see `TableStudent`.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        tables = item_tables(n_items, dim, item_vectors, text, buckets, tied, start)
        super().__init__(n_items, *tables, decays, scale, cosine, item_dropout, 0.0, cold, id_dropout)
        self.dropout = nn.Dropout(dropout)
        self.expand = nn.Linear(len(decays) * dim, hidden)
        self.contract = nn.Linear(hidden, dim)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        pools = self.pools(history, self.dropout.p)
        return self.scaled(hidden_layer(pools.flatten(1), self.expand, self.contract))
