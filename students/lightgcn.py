"""LightGCN as a student: item vectors propagated over the graph of train events, served as plain tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.closed_form.graph import Propagate, compressed, normalised
from distill.closed_form.interactions import interaction_matrix
from distill.data.dataset import Dataset
from students.hybrid_cf import HybridCF
from students.item_table import Start, TextUse

Graph = tuple[Tensor, Tensor]


class PropagatedTable(nn.Module):
    """A table of items after some steps from items to users and back, the mean over all steps.

    E_k+1 = A' A E_k, A_ui = w_ui / sqrt(c_u c_i) over the train events, w_ui the event's weight (1 where the data
    have none) and c the sums of weights; the result is the mean of E_0, ..., E_K. It is LightGCN on the same graph,
    with users that start at zero: there is no table of users, in training neither. Without a graph it is the table
    itself.
    """

    def __init__(self, table: nn.Module, layers: int) -> None:
        """Wraps a table.

        Args:
            table: A call without arguments gives E_0 (N, D).
            layers: K, steps from items to users and back.
        """
        super().__init__()
        self.table, self.layers = table, layers
        self.graph: Graph | None = None
        self._kept: Tensor | None = None

    def forward(self) -> Tensor:
        """The propagated table (N, D); in evaluation, without gradients, worked out once."""
        if self.graph is None:
            rows: Tensor = self.table()
            return rows
        if self.training or torch.is_grad_enabled():
            return self._propagated(self.graph)
        if self._kept is None:
            self._kept = self._propagated(self.graph)
        return self._kept

    def train(self, mode: bool = True) -> PropagatedTable:
        """Switches training on or off; what was worked out is forgotten."""
        self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: object) -> None:
        self._kept = None
        super()._load_from_state_dict(*arguments)  # type: ignore[arg-type]

    def _propagated(self, graph: Graph) -> Tensor:
        rows = self.table()
        to_users, to_items = (part.to(rows.device) for part in graph)
        total = rows = rows.float()
        for _ in range(self.layers):
            rows = Propagate.apply(to_items, to_users, Propagate.apply(to_users, to_items, rows))
            total = total + rows
        return total / (self.layers + 1)


class LightGCN(HybridCF):
    """`hybrid_cf` over propagated tables: an item's vector is mixed with those of items that the same users chose.

    `attach` gives it the graph of the train events, before training. What is saved and exported are the propagated
    tables, as plain ones, so a saved student needs neither the data nor the text vectors any more.

    References:
        He et al. 2020, "LightGCN: simplifying and powering graph convolution network for recommendation", eq. 3 to 8,
        with users that start at zero, and a user who is the history, read by `hybrid_cf`.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        layers: int = 1,
        hidden: int = 128,
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
            dim: Width D of the item tables.
            layers: K, steps from items to users and back; 0 is `hybrid_cf`.
            hidden: Width of the MLP's hidden layer.
            decays: Starting values of the pools' time constants, in items.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            dropout: On the pools, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        super().__init__(
            n_items,
            dim,
            hidden,
            decays,
            scale,
            cosine,
            dropout,
            item_dropout,
            tied,
            text,
            start,
            item_vectors=item_vectors,
        )
        self.inputs = PropagatedTable(self.inputs, layers)
        self.outputs = self.inputs if tied else PropagatedTable(self.outputs, layers)

    def attach(self, dataset: Dataset) -> None:
        """Takes the graph of the train events, weighted where they have weights: memory 24 bytes an event."""
        super().attach(dataset)
        adjacency = normalised(interaction_matrix(dataset, weighted=True))
        graph = compressed(adjacency), compressed(adjacency.T.tocsr())
        for part in (self.inputs, self.outputs):
            assert isinstance(part, PropagatedTable)
            part.graph = graph

    @torch.no_grad()
    def served_state(self) -> dict[str, Tensor]:
        """The weights of the same student with its tables propagated: it needs no graph and no text."""
        own = {k: v for k, v in self.state_dict().items() if not k.startswith(("inputs.", "outputs."))}
        sides = {name: getattr(self, name)().cpu().clone() for name in ("inputs", "outputs")}
        return own | {f"{name}.table.identity": rows for name, rows in sides.items()}
