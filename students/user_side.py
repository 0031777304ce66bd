"""What is known of a user besides the history: attributes, a factor of his or her own, features of recent actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.tensors import history_pools

RECENT_DECAYS = (3.0, 15.0)  # time constants of the pools of item features, in items


class UserSide(nn.Module):
    """Additions to a student's query, all zero at the start, so that training begins at the student without them.

    user vector   = scale * W attributes + factor                        known before the history is
    recent vector = scale * V [pools of item features; log(1 + items)]   worked out from the history alone

    The factor isn't scaled: it has D numbers for a handful of events, and at the pace of the others it learns them by
    heart.

    Attributes and factors are left out for a random share of the rows in training, each by itself, so that the query of
    someone without them is trained too. An unknown user's factor is the zero row.

    References:
        Kula 2015, "Metadata embeddings for user and item cold-start recommendations" (LightFM), section 3: a user as
        the sum of vectors of attributes and of an indicator of his or her own.
    """

    attributes: Tensor
    features: Tensor

    def __init__(
        self,
        dim: int,
        users: int,
        attributes: int = 0,
        recent: int = 0,
        factor: bool = False,
        dropout: float = 0.2,
        scale: float = 16.0,
        items: int = 0,
    ) -> None:
        """Builds the user side; `fill` gives it its data.

        Args:
            dim: Width D of the query.
            users: U, users of the data set.
            attributes: Columns A of the users' attributes; 0 for none.
            recent: Columns C of the item features that recent actions are described by; 0 for none.
            factor: A learned row for each user.
            dropout: Share of rows without attributes, and of rows without a factor, in training.
            scale: What all additions but the factor are multiplied with: about the length of the query.
            items: N, where there are recent actions.
        """
        super().__init__()
        self.scale, self.dropout, self.dim = scale, dropout, dim
        self.register_buffer("attributes", torch.zeros(users if attributes else 0, attributes))
        self.register_buffer("features", torch.zeros(items if recent else 0, recent))
        self.weights = nn.Linear(attributes, dim, bias=False) if attributes else None
        self.factor = nn.Parameter(torch.zeros(users, dim)) if factor else None
        self.turn = nn.Linear(len(RECENT_DECAYS) * recent + 1, dim, bias=False) if recent else None
        for layer in (self.weights, self.turn):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    @torch.no_grad()
    def fill(self, attributes: Tensor | None, features: Tensor | None) -> None:
        """Sets the users' attributes (U, A) and the items' features (N, C), which are saved with the weights."""
        for buffer, values in ((self.attributes, attributes), (self.features, features)):
            if values is not None:
                buffer.copy_(values)

    def user_vectors(self, users: Tensor) -> Tensor:
        """Additions (B, D) for users int64 (B,); zeros for -1, an unknown user."""
        known = (users >= 0)[:, None].to(self.attributes.dtype)
        index = users.clamp_min(0)
        total = known.new_zeros(len(users), self.dim)
        if self.weights is not None:
            rows = functional.embedding(index, self.attributes)
            total = total + self.scale * self.weights(rows) * self._kept(known)
        if self.factor is not None:
            total = total + functional.embedding(index, self.factor) * self._kept(known)
        return total

    def recent_vectors(self, history: Tensor) -> Tensor | None:
        """Additions (B, D) that histories (B, L) give, zeros for an empty one; None without item features."""
        if self.turn is None:
            return None
        decays = torch.tensor(RECENT_DECAYS, dtype=self.features.dtype, device=self.features.device)
        pools = history_pools(history, self.features, decays).flatten(1)
        count = (history < len(self.features)).sum(1, keepdim=True).to(pools.dtype)
        addition: Tensor = self.scale * self.turn(torch.cat([pools, count.log1p()], 1))
        return addition

    def attribute_table(self) -> Tensor | None:
        """What one unit of each attribute's column adds to the query (A, D); None without attributes."""
        return None if self.weights is None else self.scale * self.weights.weight.T

    def _kept(self, known: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return known
        return known * (torch.rand_like(known) >= self.dropout)
