"""Further heads of a student: what rating an event would get, and whether it would be a click, a purchase, a like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Heads(nn.Module):
    """value(query, item) = base + b_user + b_item + w . (query * item) + u . query + v . item, w = u = v = 0 at first.

    Base and biases are the damped means of the train part and stay as they are: a head begins as the bias model, which
    is a strong baseline, and learns what the vectors add. A binary head gives a logit, its biases are on that scale.
    The gradient reaches the student's vectors, so the heads are auxiliary tasks of the next item as well.

    References:
        Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems", eq. 4: bias terms
        beside the interaction. Caruana 1997, "Multitask learning".
    """

    def __init__(self, dim: int, items: int, users: int, heads: Mapping[str, Mapping[str, Any]]) -> None:
        """Builds the heads; `fill` gives them their biases.

        Args:
            dim: Width D of queries and items.
            items: N.
            users: U.
            heads: Name to settings: `weight`, its part in the loss, and `least`: an event whose weight is at least so
                much is a yes; None predicts the weight itself, such as a rating.
        """
        super().__init__()
        self.settings = {name: dict(about) for name, about in heads.items()}
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.zeros(3, dim)) for name in heads})
        for name in heads:
            self.register_buffer(f"{name}_base", torch.zeros(()))
            self.register_buffer(f"{name}_items", torch.zeros(items))
            self.register_buffer(f"{name}_users", torch.zeros(users))

    @torch.no_grad()
    def fill(self, name: str, base: float, items: Tensor, users: Tensor) -> None:
        """Sets the base and the biases of items (N,) and users (U,) of one head."""
        self.get_buffer(f"{name}_base").fill_(base)
        self.get_buffer(f"{name}_items").copy_(items)
        self.get_buffer(f"{name}_users").copy_(users)

    def biases(self, name: str, items: Tensor, users: Tensor) -> Tensor:
        """The bias model alone, for items int64 (B,) and users int64 (B,), -1 an unknown one: (B,)."""
        of_users = self.get_buffer(f"{name}_users")
        own = of_users[users.clamp_min(0)] * (users >= 0)
        return self.get_buffer(f"{name}_base") + self.get_buffer(f"{name}_items")[items] + own

    def forward(self, name: str, query: Tensor, vectors: Tensor, items: Tensor, users: Tensor) -> Tensor:
        """Values (B,), or logits of a binary head.

        Args:
            name: Which head.
            query: Queries (B, D).
            vectors: Vectors of the items (B, D).
            items: Item indices (B,).
            users: User indices (B,), -1 for an unknown user.
        """
        product, of_query, of_item = self.weights[name]
        addition = (query * vectors) @ product + query @ of_query + vectors @ of_item
        return self.biases(name, items, users) + addition

    def losses(
        self, query: Tensor, table: Tensor, items: Tensor, users: Tensor, outcome: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and loss of each head: mean squared error of values, cross-entropy of binary outcomes.

        Args:
            query: Queries (B, D).
            table: Item vectors (N, D).
            items: The observed next items (B,); -1 where there is none.
            users: Users (B,).
            outcome: Weights of the observed events (B,); nan where unknown, which doesn't count.
        """
        rows = (items >= 0) & outcome.isfinite()
        chosen, value = items[rows], outcome[rows].float()
        vectors = functional.embedding(chosen, table)
        found = {}
        for name, about in self.settings.items():
            predicted = self(name, query[rows], vectors, chosen, users[rows]).float()
            if not len(chosen):
                loss = predicted.sum()
            elif about["least"] is None:
                loss = functional.mse_loss(predicted, value)
            else:
                loss = functional.binary_cross_entropy_with_logits(predicted, (value >= about["least"]).float())
            found[f"head_{name}"] = (float(about["weight"]), loss)
        return found
