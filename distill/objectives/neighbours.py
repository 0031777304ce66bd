"""Self-distillation from users who are alike, for those with few events."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.objectives.candidates import mean_over
from distill.objectives.knowledge import Knowledge, Representation
from distill.soft.target import SoftTarget


def neighbour_distance(query: Tensor, mean: Tensor, events: Tensor, counted: Tensor) -> Tensor:
    """Weighted mean over contexts of the mean squared difference of (B, D) and (B, D).

    Args:
        query: Student's vectors (B, D).
        mean: What they are drawn to (B, D); no gradient flows into it.
        events: Train events n of each context's user (B,); the weight is 1 / (1 + n), scaled to mean 1.
        counted: Contexts that count (B,).
    """
    weights = torch.where(counted, 1 / (1 + events.to(query.dtype)), 0.0)
    weights = weights * counted.sum() / weights.sum().clamp_min(1e-12)
    return mean_over(weights * (query - mean.detach()).square().mean(-1), counted)


class NeighbourSelfDistillation(nn.Module):
    """A user's vector is drawn to the mean of those of users who are near in the teacher's space.

    L = w_u MSE(h_u, sg(mean of h over the nearest users)), w_u proportional to 1 / (1 + n_u), n_u the user's events.
    The neighbours' vectors are the student's own, remembered from when each user was last in a batch.

    References:
        Liu et al. 2024, "LLM-ESR: Large language models enhancement for long-tailed sequential recommendation", section
        4.3; there neighbours are encoded anew in each step, which costs ten forward passes.

    Requirements:
        A store with the teacher's vectors (`scores.hidden`), from which neighbours are found. One vector a user is held
        in memory, and in checkpoints, so that a resumed run goes on as it was.

    Inputs:
        representation: Uses `query`.
        target: Uses `user`; contexts without one, or whose neighbours weren't seen yet, don't count.

    Relations:
        It adds no knowledge of items: use it beside a loss that does. The paper's weight is 0.1.

    Example:
        >>> query, mean = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
        >>> float(neighbour_distance(query, mean, torch.tensor([7]), torch.tensor([True])))
        1.0
    """

    neighbours: Tensor
    events: Tensor
    remembered: Tensor
    known: Tensor

    def __init__(self, knowledge: Knowledge, nearest: int = 10) -> None:
        """Makes the memory.

        Args:
            knowledge: Gives neighbours and events of users.
            nearest: Neighbours of each user that are used, at most.

        Raises:
            UserError: There are no neighbours, as the store holds no vectors.
        """
        super().__init__()
        if knowledge.neighbours is None or knowledge.user_events is None:
            raise UserError(
                "The loss neighbour_self_distillation needs users who are near in the teacher's space, and the store "
                "holds no vectors. Set 'scores.hidden' to a member that has them (such as the text_tower) and run: "
                "distill score-teacher CONFIG"
            )
        self.register_buffer("neighbours", knowledge.neighbours[:, :nearest], persistent=False)
        self.register_buffer("events", knowledge.user_events, persistent=False)
        self.register_buffer("remembered", torch.zeros(knowledge.n_users, knowledge.dim))
        self.register_buffer("known", torch.zeros(knowledge.n_users, dtype=torch.bool))

    def forward(self, representation: Representation, target: SoftTarget) -> Tensor:
        """The loss, a scalar; in training mode the batch's vectors are remembered."""
        query = representation.query
        if target.user is None:
            return 0.0 * query.sum()
        user = target.user.clamp_min(0)
        near = self.neighbours[user]  # (B, M)
        usable = self.known[near.clamp_min(0)] & (near >= 0) & (near != user[:, None])
        vectors = self.remembered[near.clamp_min(0)].to(query.dtype)
        mean = (vectors * usable[:, :, None]).sum(1) / usable.sum(1, keepdim=True).clamp_min(1)
        loss = neighbour_distance(query, mean, self.events[user], usable.any(1) & (target.user >= 0))
        if self.training:
            self._remember(target.user, query)
        return loss

    @torch.no_grad()
    def _remember(self, user: Tensor, query: Tensor) -> None:
        """Of a user who is in the batch more than once, the last row is kept."""
        row = torch.arange(len(user), device=user.device)
        last = torch.full((len(self.known),), -1, device=user.device)
        last = last.scatter_reduce(0, user.clamp_min(0), torch.where(user >= 0, row, -1), "amax")
        there = last >= 0
        self.remembered[there] = query.detach()[last[there]].to(self.remembered.dtype)
        self.known |= there
