"""A second source of item vectors for rare items: what the text says, mixed in by how many events an item has."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from students.item_table import placed, principal

HALF_AT = 5.0  # train events at which both experts count alike at the start


class TailExpert(nn.Module):
    """row_i = (1 - r_i) * table_i + r_i * text_i @ S, with r_i = sigmoid(level - slope * log(1 + events_i)).

    Two learned numbers decide which items are tail. The table serves the head; the projection S is shared by all items
    and serves those whose own rows have seen too few events. Like the table itself, the mixture folds into plain rows.

    References:
        Jacobs et al. 1991, "Adaptive mixtures of local experts", with a gate that sees popularity alone.
    """

    text: Tensor
    events: Tensor

    def __init__(self, table: nn.Module, text: Tensor, dim: int) -> None:
        """Builds the mixture.

        Args:
            table: The first expert, the item table.
            text: Text vectors (N, T).
            dim: Width D of the table.
        """
        super().__init__()
        self.table = table
        found, start, self.origin = principal(text, dim)
        self.register_buffer("text", found, persistent=False)
        self.register_buffer("events", torch.zeros(len(text)))  # log(1 + train events), set by `attach`
        self.projection = nn.Parameter(start)
        self.level = nn.Parameter(torch.tensor(math.log1p(HALF_AT)))
        self.slope = nn.Parameter(torch.ones(()))

    def attach(self, events: Tensor) -> None:
        """Takes the train events of each item (N,)."""
        self.events.copy_(events.float().log1p())

    def routed(self) -> Tensor:
        """r (N,): how much of each row is the text's."""
        return torch.sigmoid(self.level - self.slope * self.events)

    def forward(self, shown: Tensor | None = None) -> Tensor:
        """Mixed rows (N, D); see `ItemTable.forward` for `shown`."""
        share = self.routed()[:, None]
        return (1 - share) * self.table(shown) + share * (self.text @ self.projection)

    def grow(self, vectors: Tensor) -> None:
        """Adds items without events, with the text vectors (M, T)."""
        self.table.grow(vectors)  # type: ignore[operator]
        self.text = torch.cat([self.text, placed(vectors, self.origin)])
        self.events = torch.cat([self.events, self.events.new_zeros(len(vectors))])


def with_tail_expert(inputs: nn.Module, outputs: nn.Module, text: Tensor, dim: int) -> tuple[TailExpert, TailExpert]:
    """The tables of history and candidates with a tail expert each; one and the same where they are tied."""
    first = TailExpert(inputs, text, dim)
    return first, first if outputs is inputs else TailExpert(outputs, text, dim)
