"""A content tower: items are what their text says, so items that nobody has chosen yet have vectors too."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from students.heads import TableStudent, even_mix
from students.item_table import ItemTable


class ItemTower(nn.Module):
    """item = P t + MLP(t) + id, t the text vector: P starts at the principal components, the other parts at zero.

    `without_ids` gives the vectors of text alone.
    """

    def __init__(self, text: Tensor, dim: int, hidden: int, dropout: float, ids: bool) -> None:
        """Builds the tower.

        Args:
            text: Text vectors (N, T).
            dim: Width D of the item vectors.
            hidden: Width of the MLP's hidden layer.
            dropout: On the hidden layer, in training.
            ids: Add an id part.
        """
        super().__init__()
        self.table = ItemTable(len(text), dim, text)
        self.table.identity.requires_grad_(ids)
        self.expand, self.contract = nn.Linear(text.shape[1], hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def without_ids(self) -> Tensor:
        """Vectors of the text alone (N, D)."""
        text = self.table.text
        assert text is not None
        hidden = functional.relu(self.expand(text))
        return text @ self.table.projection + self.contract(self.dropout(hidden))

    def forward(self, shown: Tensor | None = None) -> Tensor:
        """Item vectors (N, D); with the ids of the items in `shown`, bool (N,), or of all."""
        identity: Tensor = self.table.identity
        if shown is not None:
            identity = identity * shown[:, None].to(identity.dtype)
        return self.without_ids() + identity

    def grow(self, vectors: Tensor) -> None:
        """Adds items of which the text vectors (M, T) are known."""
        self.table.grow(vectors)


class TwoTower(TableStudent):
    """Item tower from text, user tower from the same vectors: query = W sum_k a_k pool_k, decayed means of the history.

    Both sides share one tower, so an item is its text, and with `ids` its id too. At export the tower folds into one
    plain table. Without text vectors the items are free rows, as in `mf` with tied tables.

    References:
        Covington et al. 2016, "Deep neural networks for YouTube recommendations"; Yi et al. 2019,
        "Sampling-bias-corrected neural modeling for large corpus item recommendations", for the two towers. Volkovs et
        al. 2017, "DropoutNet: addressing cold start in recommender systems", for training with ids left out.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        hidden: int = 128,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 16.0,
        cosine: bool = True,
        dropout: float = 0.1,
        item_dropout: float = 0.05,
        ids: bool = False,
        cold: bool = True,
        id_dropout: float = 0.5,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of the item vectors.
            hidden: Width of the hidden layer of the item tower.
            decays: Starting time constants of the pools, in items.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the pools and inside the item tower, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            ids: Add an id part to the item vectors.
            cold: Keep items without train events out of the training softmax and serve them without ids, see
                `TableStudent`.
            id_dropout: With `cold`, the share of items whose id is left out of a training step.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        tower: nn.Module = ItemTable(n_items, dim)
        if item_vectors is not None:
            tower = ItemTower(item_vectors, dim, hidden, dropout, ids)
        super().__init__(n_items, tower, tower, decays, scale, cosine, item_dropout, 0.0, cold, id_dropout)
        self.mix = even_mix(len(decays))
        self.dropout = nn.Dropout(dropout)
        self.turn = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.turn.weight)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D), already multiplied by the logit scale, for histories (B, L)."""
        user = self.mean_pool(history, self.mix)
        return self.scaled(self.turn(self.dropout(user)))
