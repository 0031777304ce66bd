"""iALS: matrix factorisation by alternating least squares, new users solved from their histories."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.closed_form.interactions import decay_weights, interaction_matrix
from distill.closed_form.least_squares import GATHERED, factorise, solve
from distill.data.contexts import ContextBatch
from teachers.closed_form import ClosedForm
from teachers.protocol import Inputs


class ImplicitALS(ClosedForm):
    """Minimises sum_observed w (u'v - 1)^2 + a0 sum_all (u'v)^2 + l2 (sum_u c_u^nu |u|^2 + sum_i c_i^nu |v|^2).

    w is the event's weight where `data.weight` gave it one, else 1. c_u is the sum of the user's weights plus a0 N, and
    c_i that of the item's plus a0 U, so nu = 1 regularises the frequent more, and nu = 0 all alike. Each half step
    solves one ridge regression a row exactly, so the loss never rises. There is no table of users: a context's vector
    solves the same equation from its history, the events weighted by recency, and so new users and new clicks need no
    training.

    References:
        Hu, Koren & Volinsky 2008, "Collaborative filtering for implicit feedback datasets", eq. 4. Rendle, Krichene,
        Zhang & Koren 2022, "Revisiting the performance of iALS on item recommendation benchmarks", eq. 3 to 5 and
        section 4.2 (initial scale, regularisation by frequency). The recency weights are this project's.
    """

    def __init__(
        self,
        dim: int = 64,
        l2: float = 0.003,
        unobserved: float = 0.1,
        frequency: float = 1.0,
        sweeps: int = 10,
        decay: float = 10.0,
        floor: float = 0.003,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            dim: Width D of the vectors.
            l2: Ridge strength.
            unobserved: a0, the weight of every pair; an observed pair weighs 1 more.
            frequency: nu, the exponent of the regularisation by frequency.
            sweeps: Alternations between users and items.
            decay: Time constant of the recency weights in scoring, in items; infinity weighs all alike.
            floor: Added before the logarithm, so that items without evidence differ from impossible ones.
            seed: Added to the experiment's seed.
        """
        self.dim, self.l2, self.unobserved, self.frequency = dim, l2, unobserved, frequency
        self.sweeps, self.decay, self.floor, self.seed = sweeps, decay, floor, seed

    def prepare(self, inputs: Inputs) -> None:
        """Alternates: time a sweep 2 E D^2 + (U + N) D^3, memory that of the vectors."""
        users = interaction_matrix(inputs.dataset, weighted=True)
        seed = inputs.seed + self.seed
        self.table = factorise(users, self.dim, self.unobserved, self.l2, self.frequency, self.sweeps, seed)

    def score(self, batch: ContextBatch) -> Tensor:
        """log(max(s, 0) + floor) with s = V u (B, N), u the solution for the history."""
        seen = torch.from_numpy(batch.seen)
        weights = decay_weights(seen, len(self.table), self.decay)
        gram = self.unobserved * self.table.T @ self.table
        step = max(1, GATHERED // (seen.shape[1] * self.dim))
        users = [
            solve(self.table, gram, s, w, self._ridge(w))
            for s, w in zip(seen.split(step), weights.split(step), strict=True)
        ]
        return torch.log((torch.cat(users) @ self.table.T).clamp_min(0) + self.floor)

    def item_vectors(self) -> Tensor | None:
        """The items' vectors (N, D)."""
        return self.table

    def _ridge(self, weights: Tensor) -> Tensor:
        count = weights.sum(1) + self.unobserved * len(self.table)
        return self.l2 * count**self.frequency
